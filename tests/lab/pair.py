"""Two real controllers of one domain, each in a site and a network namespace of its own, joined by a cable.

The second one joins by ``samba-tool domain join`` as any does; that is done once, and kept. Replication runs when a
test says so: between sites nobody waits for the schedule.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import frozen

from msp_sdk.testing.certificates import EstateCA
from tests.lab import controller
from tests.lab.cache import unpack_or_build
from tests.lab.controller import ADDRESS, DOMAIN, NAME_PREFIX, SYSTEM_PYTHON, SambaLab
from tests.real import need

FIRST_SITE = "Default-First-Site-Name"
OUR_SITE = "Annex"
"""The site of the subnet that both controllers, and whoever asks them, are in."""
SUBNET = "10.99.0.0/24"
# In the order of the controllers.
HOSTS = ("dc1", "dc2")
ADDRESSES = (ADDRESS, "10.99.0.2")
# The first one's IPv6 address is in DNS: whoever joins tries it.
ADDRESSES_6 = (controller.DEAD_ADDRESS, "fd99::2")
# RPC is how one is joined and replicated from; the audit is how logons are counted.
MORE = "  server services = rpc ldap cldap kdc dns\n  log level = 0 auth_audit:3\n"
DNS_UPDATE = "samba_dnsupdate"
PARTITIONS = ("DC=northvalley,DC=test", "CN=Configuration,DC=northvalley,DC=test")


@frozen
class SambaPair:
    """Both controllers, running. ``first`` is where DNS is, ``second`` is the one of our site."""

    first: SambaLab
    second: SambaLab

    def replicate(self, *, to: SambaLab) -> None:
        """Let one controller take over, now, what the other one wrote."""
        names = ("dc1", "dc2") if to is self.second else ("dc2", "dc1")
        _replicate(to.namespace, to.folder, *names)

    def kill_second(self) -> None:
        """End the second controller as a power failure does."""
        for pid in controller.pids_of(self.second.namespace):
            os.kill(pid, signal.SIGKILL)

    def logons_count(self, lab: SambaLab, account: str) -> int:
        """How many logons over LDAP that controller wrote down of an account."""
        logs = [path.read_text(encoding="utf-8", errors="replace") for path in lab.folder.glob("log*")]
        lines = [line for text in logs for line in text.splitlines() if "Auth: [LDAP" in line]
        return sum(account in line and "NT_STATUS_OK" in line for line in lines)


@contextmanager
def samba_pair() -> Iterator[SambaPair]:
    """Both controllers with the small clinic, or the test is skipped with the reason."""
    controller.need_samba()
    need(DNS_UPDATE)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=f"{NAME_PREFIX}{os.getpid()}-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        unpack_or_build(folder, _build, _recipe())
        ca = EstateCA.make("North Valley lab CA")
        namespaces = _lay_cable(stack)
        for host, address in zip(HOSTS, ADDRESSES, strict=True):
            controller.write_smb_conf(folder / host, host, address, MORE)
        password = controller.seed(folder / "dc1", clinic=True)
        labs = [
            SambaLab(
                namespace,
                folder / host,
                controller.show_certificate(folder / host, ca, host),
                ca.pem.decode("ascii"),
                f"svc-msp@{DOMAIN}",
                password,
            )
            for namespace, host in zip(namespaces, HOSTS, strict=True)
        ]
        for lab, address in zip(labs, ADDRESSES, strict=True):
            controller.run_samba(stack, lab, address)
        pair = SambaPair(*labs)
        pair.replicate(to=pair.second)
        yield pair


def _recipe() -> bytes:
    version = subprocess.run(["samba", "--version"], capture_output=True, check=True).stdout
    sources = (Path(__file__), Path(controller.__file__), controller.SAMBA_DATABASE)
    return b"\0".join((version, *(source.read_bytes() for source in sources)))


def _build(folder: Path) -> None:
    """Make a domain of two sites and let the second controller join it in the other one."""
    first, second = folder / "dc1", folder / "dc2"
    first.mkdir()
    controller.provision(first)
    controller.write_smb_conf(first, more=MORE)
    ca = EstateCA.make("North Valley lab CA")
    controller.show_certificate(first, ca)
    offline = ("-H", f"tdb://{first}/private/sam.ldb", f"--configfile={first}/etc/smb.conf")
    _samba_tool("sites", "create", OUR_SITE, *offline)
    _samba_tool("sites", "subnet", "create", SUBNET, OUR_SITE, *offline)
    password = f"Aa1-{secrets.token_urlsafe(12)}"
    controller.run_samba_script(first, {"do": "administrator", "account": "joiner", "password": password})
    with ExitStack() as stack:
        namespaces = _lay_cable(stack)
        controller.run_samba(stack, SambaLab(namespaces[0], first, "", "", "", ""))
        # The join says nowhere else who joins and where it listens.
        controller.write_smb_conf(folder / "joining", "dc2", ADDRESSES[1])
        inside = ("ip", "netns", "exec", namespaces[1], "env", f"PASSWD={password}")
        _samba_tool(
            *("domain", "join", DOMAIN, "DC", f"--username=joiner@{controller.REALM}", f"--server=dc1.{DOMAIN}"),
            *(f"--site={OUR_SITE}", "--dns-backend=SAMBA_INTERNAL", f"--targetdir={second}"),
            f"--configfile={folder}/joining/etc/smb.conf",
            inside=inside,
        )
        controller.write_smb_conf(second, "dc2", ADDRESSES[1], MORE)
        # Tells DNS its services, as a controller with all of its own services does at each start.
        _run(
            *(*inside, SYSTEM_PYTHON, shutil.which(DNS_UPDATE) or DNS_UPDATE, "-s", f"{second}/etc/smb.conf"),
            *("--use-samba-tool", f"--rpc-server-ip={ADDRESS}"),
        )
        _replicate(namespaces[1], second, "dc1", "dc2")
    # They hold the paths of this folder, and are written anew.
    for rest in (first / "etc", second / "etc", folder / "joining"):
        shutil.rmtree(rest)


def _lay_cable(stack: ExitStack) -> list[str]:
    """A namespace for each controller, with its addresses, and a cable between them."""
    namespaces = [controller.open_namespace(stack) for _ in HOSTS]
    cable = f"m{secrets.token_hex(3)}"
    ends = [f"{cable}{number}" for number in (1, 2)]
    far_end = ("type", "veth", "peer", "name", ends[1], "netns", namespaces[1])
    _run("ip", "link", "add", ends[0], "netns", namespaces[0], *far_end)
    for namespace, end, address, address_6 in zip(namespaces, ends, ADDRESSES, ADDRESSES_6, strict=True):
        _run("ip", "-n", namespace, "link", "set", end, "up")
        _run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", end)
        _run("ip", "-n", namespace, "addr", "add", f"{address_6}/64", "dev", end, "nodad")
    return namespaces


def _replicate(namespace: str, folder: Path, source: str, to: str) -> None:
    for partition in PARTITIONS:
        _samba_tool(
            *("drs", "replicate", "--local", to, source, partition, "-P", f"--configfile={folder}/etc/smb.conf"),
            inside=("ip", "netns", "exec", namespace),
        )


def _samba_tool(*words: str, inside: Sequence[str] = ()) -> None:
    _run(*inside, SYSTEM_PYTHON, shutil.which("samba-tool") or "samba-tool", *words)


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, f"{command[:9]} broke:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
