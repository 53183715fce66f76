"""A client that stands beside the lab's controller and knows nothing but what DHCP tells it.

Two namespaces joined by a cable: on the controller's end dnsmasq hands out leases, on the other end a real DHCP
client runs with an ``/etc``, a ``/run`` and a ``/var/lib`` of its own, so that nothing of this machine says a domain.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

DNS = "10.99.0.1"
ROUTER = "10.98.0.1"
SUBNET = "10.98.0.0/27"
NEIGHBOUR = "10.98.0.2"
READY_WITHIN_S = 10.0

# Private folders over those of the machine, then the client, then the command line; only that is timed.
_SCRIPT = r"""
set -eu
cp -a /etc "$T/etc"; mount --bind "$T/etc" /etc
rm -f /etc/resolv.conf; echo '# nothing' > /etc/resolv.conf
hostname box 2>/dev/null || true
for place in /run /var/lib/dhcp /var/lib/dhcpcd /var/lib/NetworkManager; do
  [ -d "$place" ] && mount -t tmpfs tmpfs "$place"
done
mkdir -p /run/lock
ip link set lo up; ip link set "$CABLE" up
eval "$CLIENT" > "$T/client.log" 2>&1 || { cat "$T/client.log" >&2; exit 97; }
cp /etc/resolv.conf "$T/resolv.conf"
[ -n "$AFTER" ] && eval "$AFTER"
cd "$T"
"$PYTHON" - "$@" <<'END'
import os, subprocess, sys, time
start = time.monotonic()
done = subprocess.run([sys.executable, "-m", "runners.cli", *sys.argv[1:]], capture_output=True, text=True)
sys.stderr.write(done.stderr)
print(f"{time.monotonic() - start:.3f}")
sys.stdout.write(done.stdout)
sys.exit(done.returncode)
END
"""

CLIENTS = {
    # Debian's script writes resolv.conf, with option 15 only.
    "udhcpc": "udhcpc -f -q -n -t 5 -T 1 -i $CABLE",
    "dhclient": "dhclient -1 -4 -d -cf $T/dhclient.conf $CABLE & for i in $(seq 80); do"
    " grep -q 'domain-name-servers' /var/lib/dhcp/dhclient.leases 2>/dev/null && break; sleep 0.1; done; sleep 0.3",
    # Its hooks write resolv.conf too; the lease itself is a message as it came.
    "dhcpcd": "dhcpcd -4 -1 -w -t 10 --noarp --nobackground $CABLE & for i in $(seq 100); do"
    " ls /var/lib/dhcpcd/*.lease >/dev/null 2>&1 && break; sleep 0.1; done; sleep 0.5",
}
PROGRAMS = ("dnsmasq", "unshare", "ss")
"""Needed beside a client; a client's program has its name."""


@frozen
class Told:
    """What the command line said in the client's namespace."""

    document: dict[str, Any]
    text: str
    took_s: float
    resolv_conf: str


@frozen
class DhcpLab:
    """A cable between the controller's namespace and a client's."""

    controller: str
    client: str
    cable: str
    folder: Path

    @contextmanager
    def windows_host(self) -> Iterator[str]:
        """A neighbour of the client's with an open door of WinRM; its address."""
        end = f"{self.cable}s"
        _ip("-n", self.controller, "addr", "add", f"{NEIGHBOUR}/27", "dev", end)
        command = ["ip", "netns", "exec", self.controller, sys.executable, "-m", "http.server", "5985"]
        with subprocess.Popen(
            [*command, "--bind", NEIGHBOUR, "--directory", str(self.folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as host:
            try:
                self._wait_for("-Hltn", "5985")
                yield NEIGHBOUR
            finally:
                host.terminate()
                _ip("-n", self.controller, "addr", "del", f"{NEIGHBOUR}/27", "dev", end)

    @contextmanager
    def server(self, *options: str, dns_port: int = 0) -> Iterator[None]:
        """Hand out leases with these dnsmasq options; with a port it is a DNS server too."""
        leases = self.folder / f"leases-{secrets.token_hex(2)}"
        command = [
            *(
                "ip",
                "netns",
                "exec",
                self.controller,
                "dnsmasq",
                "-C",
                "/dev/null",
                "--no-daemon",
                f"--port={dns_port}",
            ),
            *(
                f"--interface={self.cable}s",
                "--except-interface=lo",
                "--bind-interfaces",
                "--dhcp-authoritative",
                "--no-ping",
            ),
            *("--dhcp-range=10.98.0.5,10.98.0.25,255.255.255.224,1h", f"--dhcp-option=3,{ROUTER}"),
            *(f"--dhcp-leasefile={leases}", "--pid-file=", "--user=root", "--group=root", *options),
        ]
        with (self.folder / "dnsmasq.log").open("wb") as log:
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._wait_for("-Hlun", "67")
            yield
        finally:
            server.terminate()
            server.wait(timeout=10)

    def _wait_for(self, kind: str, port: str) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        listing = ["ip", "netns", "exec", self.controller, "ss", kind, "sport", "=", f":{port}"]
        while not subprocess.run(listing, capture_output=True, text=True, check=False).stdout.strip():
            log = self.folder / "dnsmasq.log"
            assert time.monotonic() < deadline, f"port {port}: {log.read_text() if log.exists() else ''}"
            time.sleep(0.05)

    def discover(self, client: str, *arguments: str, after: str = "") -> Told:
        """Get a lease with a real client, then run ``msp discover``.

        Args:
            client: One of ``CLIENTS``.
            arguments: For the command, beside ``discover``.
            after: Shell commands between the lease and the command.
        """
        private = Path(tempfile.mkdtemp(dir=self.folder))
        (private / "dhclient.conf").write_text(
            "timeout 8; request subnet-mask, routers, domain-name, domain-search, domain-name-servers;\n"
        )
        self._run("ip", "addr", "flush", "dev", f"{self.cable}c")
        done = subprocess.run(
            [
                "ip",
                "netns",
                "exec",
                self.client,
                "unshare",
                "-muf",
                "bash",
                "-c",
                _SCRIPT,
                "bash",
                "discover",
                *arguments,
            ],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(private),
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "PYTHON": sys.executable,
                "CABLE": f"{self.cable}c",
                "CLIENT": CLIENTS[client],
                "AFTER": after,
                "T": str(private),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self._end_clients()
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        took, _, text = done.stdout.partition("\n")
        document = json.loads(text) if "--json" in arguments else {}
        return Told(document, text, float(took), (private / "resolv.conf").read_text())

    def _run(self, *command: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.client, *command], check=True, capture_output=True)

    def _end_clients(self) -> None:
        for _ in range(50):
            listed = subprocess.run(["ip", "netns", "pids", self.client], capture_output=True, text=True, check=True)
            if not listed.stdout.split():
                return
            for pid in listed.stdout.split():
                subprocess.run(["kill", pid], capture_output=True, check=False)
            time.sleep(0.05)


def define_site(folder: Path, ad_site: str) -> None:
    """Tell a controller's directory which site the client's subnet belongs to; it is read at the next ping."""
    subprocess.run(
        [
            *("/usr/bin/python3", "/usr/bin/samba-tool", "sites", "subnet", "create", SUBNET, ad_site),
            *("-H", f"tdb://{folder}/private/sam.ldb", f"--configfile={folder}/etc/smb.conf"),
        ],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )


@contextmanager
def open_dhcp_lab(controller: str) -> Iterator[DhcpLab]:
    """Lay the cable between the controller's namespace and a new one."""
    client = f"{controller}-c{secrets.token_hex(1)}"
    cable = f"m{secrets.token_hex(3)}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="msplab-dhcp-")))
        _ip("netns", "add", client)
        stack.callback(_ip, "netns", "del", client)
        _ip(
            "link",
            "add",
            f"{cable}s",
            "netns",
            controller,
            "type",
            "veth",
            "peer",
            "name",
            f"{cable}c",
            "netns",
            client,
        )
        stack.callback(subprocess.run, ["ip", "-n", controller, "link", "del", f"{cable}s"], check=False)
        _ip("-n", controller, "addr", "add", f"{ROUTER}/27", "dev", f"{cable}s")
        _ip("-n", controller, "link", "set", f"{cable}s", "up")
        _ip("-n", client, "link", "set", "lo", "up")
        yield DhcpLab(controller, client, cable, folder)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
