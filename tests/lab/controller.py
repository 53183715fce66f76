"""A real Samba domain controller for the tests: in a folder of its own, in a network namespace of its own.

Nothing of it is visible outside: the controller listens only inside the namespace, and namespace, processes, folder
and resolver files are gone afterwards, also after a failure. Left-overs of a test run that was killed are swept at the
next start. Where Samba, ``ip`` or root is missing the tests are skipped with the reason; with ``MSP_REQUIRE_REAL=1``
they fail instead.

Tests talk to it from inside: :meth:`SambaLab.ask` runs one scenario of ``inside.py`` in the namespace with its
parameters as JSON on stdin, and returns the JSON that it printed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attrs import field, frozen

from msp_sdk.testing.certificates import EstateCA
from tests.lab.cache import unpack_or_build
from tests.real import do_without

HERE = Path(__file__).parent
SAMBA_DATABASE = HERE / "samba_database.py"
BIG_DATABASE = HERE / "big_database.py"
NAME_PREFIX = "msplab-"
NETNS_FILES = Path("/etc/netns")
# Samba's Python bindings exist for the system's interpreter alone.
SYSTEM_PYTHON = "/usr/bin/python3"
REALM = "NORTHVALLEY.TEST"
DOMAIN = REALM.lower()
NETBIOS = "NORTHVALLEY"
ADDRESS = "10.99.0.1"
# Also in DNS, and nobody answers there: as in the field, and so that the host's own address is not taken.
DEAD_ADDRESS = "fd99::1"
CONTROLLER = f"dc1.{DOMAIN}"
READY_WITHIN_S = 60.0
LOCKOUT_THRESHOLD = 5


@frozen
class SambaLab:
    """The running controller.

    Attributes:
        certificate_sha256: Of the certificate it shows on LDAPS, over its DER.
        ca_pem: The CA that signed it.
        username: An ordinary account (UPN); nobody's administrator.
        password: Its password.
    """

    namespace: str
    folder: Path
    certificate_sha256: str
    ca_pem: str
    username: str
    password: str = field(repr=False)

    def run(self, *command: str, stdin: str = "", timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a program inside the namespace, without the account that pytest's environment may carry."""
        return subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def ask(self, scenario: str, **parameters: Any) -> Any:
        """Run a scenario of ``inside.py`` in the namespace and return what it found."""
        done = self.run(sys.executable, str(HERE / "inside.py"), scenario, stdin=json.dumps(parameters))
        assert done.returncode == 0, f"{scenario} broke:\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def bad_password_count(self, account: str) -> int:
        """How many wrong passwords the controller has counted, read from its database, not asked of it."""
        return int(run_samba_script(self.folder, {"do": "bad-password-count", "account": account})["count"])

    def reset_bad_password_count(self, account: str) -> None:
        """Let the account begin anew."""
        run_samba_script(self.folder, {"do": "reset", "account": account})


def _missing() -> str | None:
    """Why there can be no lab here, or None."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    for program in ("ip", "samba", "samba-tool", "ldbsearch"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    bindings = subprocess.run([SYSTEM_PYTHON, "-c", "import samba.samdb"], capture_output=True, check=False)
    if bindings.returncode != 0:
        return "Samba's Python bindings are not installed"
    probe = f"{NAME_PREFIX}{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode != 0:
        return "this machine does not allow network namespaces"
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return None


@contextmanager
def samba_controller(*, computers: int = 0) -> Iterator[SambaLab]:
    """A running controller, or the test is skipped with the reason.

    Args:
        computers: 0 is the small clinic of ``samba_database.py``; else so many made up by ``big_database.py``, built
            once and kept in the user's cache.
    """
    need_samba()
    with ExitStack() as stack:
        yield _start(stack, computers)


def need_samba() -> None:
    """Go on only where there can be a controller; what a killed run left is removed first."""
    reason = _missing()
    if reason is not None:
        do_without(f"there is no Samba domain controller: {reason}")
    _sweep()


def _sweep() -> None:
    """Remove what a killed run left: namespaces that carry the number of a process that is no more."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        name = line.split()[0]
        owner = name.removeprefix(NAME_PREFIX).split("-")[0]
        if name.startswith(NAME_PREFIX) and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            remove_namespace(name)
    for folder in Path(tempfile.gettempdir()).glob(f"{NAME_PREFIX}*"):
        owner = folder.name.removeprefix(NAME_PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _start(stack: ExitStack, computers: int) -> SambaLab:
    folder = Path(tempfile.mkdtemp(prefix=f"{NAME_PREFIX}{os.getpid()}-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    if computers:
        unpack_or_build(folder, lambda empty: _build_big(empty, computers), _recipe(computers))
    else:
        provision(folder)
    write_smb_conf(folder)
    ca = EstateCA.make("North Valley lab CA")
    sha256 = show_certificate(folder, ca)
    password = seed(folder, clinic=not computers)
    namespace = open_namespace(stack)
    _ip("-n", namespace, "addr", "add", f"{ADDRESS}/24", "dev", "lo")
    lab = SambaLab(namespace, folder, sha256, ca.pem.decode("ascii"), f"svc-msp@{DOMAIN}", password)
    run_samba(stack, lab)
    return lab


def show_certificate(folder: Path, ca: EstateCA, host: str = "dc1") -> str:
    """Have the controller show a certificate of this CA; its digest.

    Samba's own carries no subjectAltName, so that nothing could verify it.
    """
    certificate = ca.issue([f"{host}.{DOMAIN}"])
    certificate.write(folder / "tls", "server")
    (folder / "tls" / "ca.pem").write_bytes(ca.pem)
    return certificate.sha256


def seed(folder: Path, *, clinic: bool) -> str:
    """Make the ordinary account, and the clinic's computers; the account's password."""
    # Made up for this one run, strong enough for the domain's policy.
    password = f"Aa1-{secrets.token_urlsafe(12)}"
    order = {"do": "seed", "password": password, "lockout_threshold": LOCKOUT_THRESHOLD, "clinic": clinic}
    run_samba_script(folder, order)
    return password


def open_namespace(stack: ExitStack) -> str:
    """A network namespace whose names are those of the domain's DNS."""
    namespace = f"{NAME_PREFIX}{os.getpid()}-{secrets.token_hex(2)}"
    _ip("netns", "add", namespace)
    stack.callback(remove_namespace, namespace)
    _ip("-n", namespace, "link", "set", "lo", "up")
    private = NETNS_FILES / namespace
    private.mkdir(parents=True)
    (private / "resolv.conf").write_text(f"search {DOMAIN}\nnameserver {ADDRESS}\n", encoding="ascii")
    return namespace


def run_samba(stack: ExitStack, lab: SambaLab, address: str = ADDRESS) -> None:
    """Start the controller in its namespace, and wait until it answers."""
    configuration = str(lab.folder / "etc/smb.conf")
    log = stack.enter_context((lab.folder / "log").open("wb"))
    server = subprocess.Popen(
        ["ip", "netns", "exec", lab.namespace, "samba", "-F", "--no-process-group", "-s", configuration],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    stack.callback(_end, server, lab.namespace)
    _wait_ready(lab, server, address)


def _recipe(computers: int) -> bytes:
    """What a kept directory depends on: change it, and it is built anew."""
    version = subprocess.run(["samba", "--version"], capture_output=True, check=True).stdout
    sources = (Path(__file__), BIG_DATABASE)
    return b"\0".join((version, str(computers).encode(), *(source.read_bytes() for source in sources)))


def _build_big(folder: Path, computers: int) -> None:
    provision(folder)
    write_smb_conf(folder)
    run_samba_script(folder, {"computers": computers}, script=BIG_DATABASE)
    # Holds the paths of this folder, and is written anew.
    shutil.rmtree(folder / "etc")
    (folder / "etc").mkdir()


def provision(folder: Path) -> None:
    """Make the domain, with this folder's controller as its first one."""
    # Without --adminpass Samba draws one that nobody learns: no test logs on as administrator.
    done = subprocess.run(
        [
            *(SYSTEM_PYTHON, shutil.which("samba-tool") or "samba-tool", "domain", "provision"),
            *(f"--targetdir={folder}", f"--realm={REALM}", f"--domain={NETBIOS}", "--server-role=dc"),
            *("--dns-backend=SAMBA_INTERNAL", "--host-name=dc1", f"--host-ip={ADDRESS}", f"--host-ip6={DEAD_ADDRESS}"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"samba-tool could not provision:\n{done.stdout}\n{done.stderr}"


def write_smb_conf(folder: Path, host: str = "dc1", address: str = ADDRESS, more: str = "") -> None:
    """The provisioned one takes over parts of the host's; ours lies below the folder with all that it writes."""
    text = f"""[global]
  netbios name = {host.upper()}
  realm = {REALM}
  workgroup = {NETBIOS}
  server role = active directory domain controller
  server services = ldap cldap kdc dns
  idmap_ldb:use rfc2307 = yes
  interfaces = lo {address}/24
  bind interfaces only = yes
  dns forwarder =
  private dir = {folder}/private
  state directory = {folder}/state
  cache directory = {folder}/cache
  lock directory = {folder}/lock
  pid directory = {folder}/run
  ncalrpc dir = {folder}/run/ncalrpc
  winbindd socket directory = {folder}/run/winbindd
  ntp signd socket directory = {folder}/run/ntp
  log file = {folder}/log.%m
  tls enabled = yes
  tls certfile = {folder}/tls/server.pem
  tls keyfile = {folder}/tls/server.key
  tls cafile = {folder}/tls/ca.pem
{more}"""
    for name in ("etc", "run", "cache", "lock"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "etc" / "smb.conf").write_text(text, encoding="ascii")


def run_samba_script(folder: Path, order: dict[str, Any], script: Path = SAMBA_DATABASE) -> dict[str, Any]:
    """Work on a directory's database with Samba's own library, and return what the script printed."""
    done = subprocess.run(
        [SYSTEM_PYTHON, str(script)],
        input=json.dumps({"folder": str(folder), "domain": DOMAIN, **order}),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, f"samba's database could not be used:\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _wait_ready(lab: SambaLab, server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    waiter = (
        "import socket, sys, time\n"
        "for port in (53, 389, 636):\n"
        f"    end = time.monotonic() + {READY_WITHIN_S}\n"
        "    while True:\n"
        "        try:\n"
        f"            socket.create_connection(('{address}', port), 2).close()\n"
        "            break\n"
        "        except OSError:\n"
        "            if time.monotonic() > end: sys.exit(f'port {port} stayed closed')\n"
        "            time.sleep(0.1)\n"
    )
    done = lab.run(SYSTEM_PYTHON, "-c", waiter, timeout_s=3 * READY_WITHIN_S)
    alive = server.poll() is None and time.monotonic() < deadline
    log = (lab.folder / "log").read_text(encoding="utf-8", errors="replace")[-2000:]
    assert done.returncode == 0, f"Samba did not come up: {done.stderr}\n{log}"
    assert alive, f"Samba ended at once:\n{log}"


def pids_of(namespace: str) -> list[int]:
    """Every process in it."""
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in listed.split()]


def remove_namespace(namespace: str) -> None:
    """End every process of a namespace that is ours, then the namespace and its resolver files."""
    for number, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience_s
        for pid in pids_of(namespace):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        while pids_of(namespace) and time.monotonic() < deadline:
            time.sleep(0.05)
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
    shutil.rmtree(NETNS_FILES / namespace, ignore_errors=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _end(server: subprocess.Popen[bytes], namespace: str) -> None:
    remove_namespace(namespace)
    server.wait(timeout=10)
