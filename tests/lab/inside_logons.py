"""Sealed logons inside the lab's namespace: one process, a line of JSON in for each order, one out for its end.

Between us and the controller stand forwarders of our own, at an address of loopback: they record, or lose answers.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from msp_sdk.directory.session import DirectoryOptions, open_session, read_root_dse
from msp_sdk.errors import MspError
from msp_sdk.models.credential import Credential, TrustedCertificate
from msp_sdk.models.domain import DomainController
from msp_sdk.network.logons import LogonLedger
from msp_sdk.secret import Secret

DOMAIN = "northvalley.test"
CONTROLLER = "10.99.0.1"
BETWEEN = "127.0.0.77"


class Forwarder:
    """Stands in front of a port of the controller.

    Args:
        port: Of both sides.
        answered: So many connections are forwarded; later ones are heard and never answered.
    """

    def __init__(self, port: int, answered: int = 1000) -> None:
        self.recorded = bytearray()
        self.connections = 0
        self._answered = answered
        self._port = port
        self._listener = socket.create_server((BETWEEN, port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give the port back."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._take, args=(client,), daemon=True).start()

    def _take(self, client: socket.socket) -> None:
        if not client.recv(1, socket.MSG_PEEK):
            # Somebody looked whether the door is open.
            client.close()
            return
        self.connections += 1
        if self.connections > self._answered:
            self._swallow(client)
            return
        server = socket.create_connection((CONTROLLER, self._port))
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.recorded += data
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _swallow(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while client.recv(65536):
                pass


def log_on(given: dict[str, Any]) -> Any:
    """Log on by some doors, ``times`` over; read what is asked for; say what was recorded in between."""
    between: dict[int, Forwarder] = {}
    address = given.get("address", CONTROLLER)
    for port, answered in given.get("between", {}).items():
        between[int(port)] = Forwarder(int(port), answered)
        address = BETWEEN
    controller = DomainController(given.get("fqdn", f"dc1.{DOMAIN}"), 389, (address,))
    options = DirectoryOptions(
        doors=tuple(given["doors"]),
        allow_ntlm=given.get("allow_ntlm", True),
        receive_timeout_s=given.get("patience_s", 20.0),
    )
    password = Secret(given["password"])
    credential = Credential(
        "lab",
        given.get("version", 1),
        "service_account",
        given["username"],
        lambda: password,
        given.get("domain", DOMAIN),
        netbios_name=given.get("netbios_name"),
        trusted_certificates=tuple(TrustedCertificate(**entry) for entry in given.get("trusted", [])),
    )
    ledger = LogonLedger(Path(given["ledger"]))
    try:
        ends = [_once(controller, credential, ledger, options, given) for _ in range(given.get("times", 1))]
        if given.get("in_clear"):
            read_root_dse(controller, options)
    finally:
        for front in between.values():
            front.close()
    state = ledger.state(credential)
    return {
        "ends": ends,
        "state": state.state,
        "code": state.code,
        "connections": {str(port): front.connections for port, front in between.items()},
        "recorded": {str(port): front.recorded.hex() for port, front in between.items()},
    }


def _once(
    controller: DomainController,
    credential: Credential,
    ledger: LogonLedger,
    options: DirectoryOptions,
    given: dict[str, Any],
) -> dict[str, Any]:
    try:
        session = open_session(controller, credential, ledger=ledger, options=options)
    except MspError as error:
        return {
            "error": type(error).__name__,
            "code": error.code,
            "detail": error.detail,
            "doors": error.context.get("doors"),
            "password_right": error.context.get("password_right"),
        }
    try:
        started = time.perf_counter()
        names = [
            entry.text("name")
            for page in session.pages(given["base"], given.get("filter", "(objectClass=*)"), ("name", "whenCreated"))
            for entry in page
        ]
        return {
            "source": session.source,
            "certificate": session.certificate_sha256,
            "count": len(names),
            "names": names[:20],
            "read_s": time.perf_counter() - started,
            "skipped": [(entry.door, entry.code) for entry in session.skipped_doors],
        }
    finally:
        session.close()


def main() -> None:
    """Take orders until there are no more."""
    for line in sys.stdin:
        try:
            found = log_on(json.loads(line))
        except Exception:  # noqa: BLE001 (the test that asked shows it)
            found = {"broke": traceback.format_exc()}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
