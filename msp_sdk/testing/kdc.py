r"""A real KDC for an estate: MIT's ``krb5kdc`` on an address of loopback, started in about a second, without root.

It needs Debian's ``krb5-kdc`` and ``krb5-admin-server`` (for ``kadmin.local``). What it is not: a controller of Active
Directory. Its tickets carry no PAC, it knows no UPN and no short domain name, and its lockout counts for itself.

Example:
    >>> with RealKdc(folder, "CORP.EXAMPLE", address="127.1.2.3") as kdc:  # doctest: +SKIP
    ...     kdc.add_user("svc", password)
    ...     kdc.add_service("host/srv1.corp.example")
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from msp_sdk.errors import StateError

_PROGRAMS = ("krb5kdc", "kdb5_util", "kadmin.local")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_START_S = 10.0
LOCKS_AFTER = 3


def is_installed() -> bool:
    """True when MIT's KDC is there."""
    return all(shutil.which(name, path=_PATH) for name in _PROGRAMS)


class RealKdc:
    """A realm of its own, in a folder of its own.

    Args:
        folder: For its database, keys and log; made 0700.
        realm: In capitals.
        address: A loopback address; port 88 needs root, so give another one elsewhere.
        port: Of TCP; nothing listens on UDP.

    Attributes:
        keytab: The services' keys, for whoever plays them.
    """

    def __init__(self, folder: Path, realm: str, *, address: str, port: int = 88) -> None:
        self.folder = folder
        self.realm = realm
        self.address = address
        self.port = port
        self.keytab = folder / "services.keytab"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "krb5.conf").write_text(self._krb5_conf(), encoding="utf-8")
        (self.folder / "kdc.conf").write_text(self._kdc_conf(), encoding="utf-8")
        (self.folder / "acl").write_text("", encoding="utf-8")
        master = secrets.token_urlsafe(24)
        self._run("kdb5_util", "create", "-s", words=f"{master}\n{master}\n")
        self._admin(f"addpol -maxfailure {LOCKS_AFTER} -failurecountinterval 0 locks")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Answer."""
        process = subprocess.Popen(  # noqa: S603 (our own words)
            [self._program("krb5kdc"), "-n", "-r", self.realm], env=self._environ(), stderr=subprocess.DEVNULL
        )
        self._process = process
        until = time.monotonic() + _START_S
        while time.monotonic() < until and process.poll() is None:
            try:
                socket.create_connection((self.address, self.port), 0.2).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        self.stop()
        raise StateError("krb5kdc did not start.")

    def stop(self) -> None:
        """Answer no more; what it knows stays."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def add_user(self, name: str, password: str, *, life: str = "10 hours") -> None:
        """An account that must prove its password, and locks after :data:`LOCKS_AFTER` wrong ones."""
        self._admin(f'addprinc +requires_preauth -policy locks -maxlife "{life}" -pw {_quoted(password)} {name}')

    def add_service(self, *names: str) -> None:
        """Services with random keys, which lie in :attr:`keytab` afterwards."""
        self._admin(*(f"addprinc -randkey {name}" for name in names))
        self.give_key(*names)

    def give_key(self, *names: str) -> None:
        """Services get new keys, which lie in :attr:`keytab` beside their old ones."""
        self._admin(*(f"ktadd -k {self.keytab} {name}" for name in names))
        self.keytab.chmod(0o600)

    def remove(self, name: str) -> None:
        """Forget a principal."""
        self._admin(f"delprinc -force {name}")

    def change(self, name: str, flags: str) -> None:
        """Change a principal, such as ``-allow_tix``."""
        self._admin(f"modprinc {flags} {name}")

    def renew_key(self, name: str) -> None:
        """Give a service another key that nobody has, as a machine that was joined anew elsewhere."""
        self._admin(f"cpw -randkey {name}")

    def failures(self, name: str) -> int:
        """How many wrong passwords an account has collected."""
        found = re.search(r"Failed password attempts: (\d+)", self._admin(f"getprinc {name}"))
        return int(found.group(1)) if found else 0

    def requests(self, kind: str) -> list[str]:
        """The lines of its log about requests of a kind: ``AS_REQ`` or ``TGS_REQ``."""
        log = self.folder / "kdc.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        return [line for line in lines if f" {kind} " in line]

    def _krb5_conf(self) -> str:
        return f"[libdefaults]\n default_realm = {self.realm}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n"

    def _kdc_conf(self) -> str:
        return f"""[kdcdefaults]
 kdc_listen = ""
 kdc_tcp_listen = {self.address}:{self.port}
[realms]
 {self.realm} = {{
  database_name = {self.folder}/principal
  key_stash_file = {self.folder}/stash
  acl_file = {self.folder}/acl
  max_life = 10h
 }}
[logging]
 kdc = FILE:{self.folder}/kdc.log
 admin_server = FILE:{self.folder}/kadmin.log
"""

    def _environ(self) -> dict[str, str]:
        return {
            "KRB5_CONFIG": str(self.folder / "krb5.conf"),
            "KRB5_KDC_PROFILE": str(self.folder / "kdc.conf"),
            "KRB5RCACHENAME": "none:",
            "LC_ALL": "C.UTF-8",
            "PATH": _PATH,
        }

    @staticmethod
    def _program(name: str) -> str:
        found = shutil.which(name, path=_PATH)
        if found is None:
            raise StateError(f"{name} is not installed (Debian: krb5-kdc, krb5-admin-server).")
        return found

    def _run(self, program: str, *arguments: str, words: str = "") -> str:
        done = subprocess.run(  # noqa: S603 (our own words)
            [self._program(program), "-r", self.realm, *arguments],
            env=self._environ(),
            input=words,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StateError(f"{program} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return done.stdout + done.stderr

    def _admin(self, *queries: str) -> str:
        """Passwords go in on its standard input, and so are in no list of processes."""
        said = self._run("kadmin.local", words="\n".join((*queries, "quit", "")))
        # Its exit code says nothing, and it repeats what it was told, passwords too.
        failed = re.search(r"^\w[\w.]*: (?! ).* while .*$", said, re.MULTILINE)
        if failed:
            raise StateError(f"kadmin.local did not do it: {failed.group()}")
        return said


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
