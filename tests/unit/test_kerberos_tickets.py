"""One ticket for many hosts: the worker that holds it, what it costs, and that it always ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from msp_sdk import errors
from msp_sdk.network.kdcs import Kdc
from msp_sdk.network.kerberos_account import ServiceTicket
from msp_sdk.network.kerberos_process import KerberosFailure
from msp_sdk.network.kerberos_tickets import NotApplicable
from msp_sdk.testing.host_lab import LAB_PASSWORD
from msp_sdk.testing.kdc import RealKdc
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.wsman_kerberos import render_error
from tests.unit.kerberos_lab import REALM, KerberosLab, domain_with_kdc

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[KerberosLab]:
    with domain_with_kdc(tmp_path) as made:
        made.kdc.add_service("host/srv1.corp.example")
        yield made


def workers() -> list[int]:
    """The processes of ours that hold tickets."""
    return workers_of(os.getpid())


def workers_of(parent: int) -> list[int]:
    found = []
    for about in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = (about / "cmdline").read_bytes()
            ancestor = int((about / "stat").read_text().rpartition(")")[2].split()[1])
            if b"kerberos_worker" in words and ancestor == parent:
                found.append(int(about.name))
    return found


def gone(pid: int, within_s: float = 10.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_one_worker_serves_an_account_and_ends_with_the_tickets(lab: KerberosLab) -> None:
    tickets = lab.tickets()
    assert isinstance(lab.ask(tickets, lab.credential()), ServiceTicket)
    (first,) = workers()
    assert isinstance(lab.ask(tickets, lab.credential()), ServiceTicket)
    assert workers() == [first]
    assert lab.password_uses() == 1
    tickets.close()
    assert gone(first)


def test_another_version_of_a_credential_has_a_worker_and_a_logon_of_its_own(lab: KerberosLab) -> None:
    tickets = lab.tickets()
    lab.ask(tickets, lab.credential())
    lab.ask(tickets, lab.credential(version=2))
    assert len(workers()) == 2
    assert lab.password_uses() == 2
    tickets.end(lab.credential())
    assert len(workers()) == 1
    tickets.close()


def test_a_password_typed_anew_is_not_taken_for_right_because_of_an_older_ticket(lab: KerberosLab) -> None:
    tickets = lab.tickets()
    assert isinstance(lab.ask(tickets, lab.credential()), ServiceTicket)
    lab.ledger.begin_typed(lab.credential())
    with pytest.raises(errors.LogonRejectedError):
        lab.ask(tickets, lab.credential("wrong"))
    assert workers() == []
    tickets.close()


def test_a_version_that_hosts_paused_is_proven_by_a_new_ticket(lab: KerberosLab) -> None:
    tickets = lab.tickets()
    credential = lab.credential()
    lab.ask(tickets, credential)
    with lab.ledger.attempt(credential, place="host", host="srv2") as attempt:
        assert attempt.refused("wrong-password") == "paused"
    assert isinstance(lab.ask(tickets, credential), ServiceTicket)
    assert not lab.ledger.is_paused(credential)
    assert lab.password_uses() == 2
    tickets.close()


def test_who_still_waits_when_all_is_ended_begins_no_worker(lab: KerberosLab) -> None:
    tickets = lab.tickets()
    lab.ask(tickets, lab.credential())
    account = tickets._accounts[lab.credential().ledger_key]
    ends: list[object] = []

    def wait() -> None:
        try:
            ends.append(lab.ask(tickets, lab.credential()))
        except errors.MspError as error:
            ends.append(type(error))

    with account.lock:
        waiting, closing = threading.Thread(target=wait), threading.Thread(target=tickets.close)
        waiting.start()
        closing.start()
        while not tickets._closed:
            time.sleep(0.01)
    waiting.join()
    closing.join()
    assert ends == [errors.UnreachableError]
    assert workers() == []
    assert lab.password_uses() == 1


def test_a_worker_that_is_not_used_ends_by_itself(lab: KerberosLab) -> None:
    tickets = lab.tickets(idle_s=0.3)
    lab.ask(tickets, lab.credential())
    (pid,) = workers()
    assert gone(pid)
    # The next use takes a new ticket, through the ledger.
    assert isinstance(lab.ask(tickets, lab.credential()), ServiceTicket)
    assert lab.password_uses() == 2
    tickets.close()


def test_a_worker_that_was_killed_is_replaced_once_and_its_contexts_are_lost(lab: KerberosLab) -> None:
    tickets = lab.tickets()
    begun = lab.ask(tickets, lab.credential())
    (pid,) = workers()
    os.kill(pid, signal.SIGKILL)
    assert isinstance(begun, ServiceTicket)
    assert isinstance(begun.finish(b"x", 5.0), KerberosFailure)
    assert begun.is_lost
    assert isinstance(lab.ask(tickets, lab.credential()), ServiceTicket)
    assert lab.password_uses() == 2
    tickets.close()


def test_a_ticket_that_is_about_to_end_is_replaced_through_the_ledger(lab: KerberosLab) -> None:
    now = [0.0]
    tickets = lab.tickets(clock=lambda: now[0])
    lab.kdc.change("svc", '-maxlife "2 hours"')
    lab.ask(tickets, lab.credential())
    (first,) = workers()
    # Not used in its last five minutes.
    now[0] = 2 * 3600 - 301.0
    lab.ask(tickets, lab.credential())
    assert workers() == [first]
    now[0] += 2.0
    assert isinstance(lab.ask(tickets, lab.credential()), ServiceTicket)
    assert gone(first)
    assert lab.password_uses() == 2
    tickets.close()


def test_threads_that_come_at_once_share_one_use_of_the_password(lab: KerberosLab) -> None:
    # Lesson 32: sixty-four threads with a wrong password were sixty-four strikes.
    tickets = lab.tickets()
    ends: list[object] = []

    def ask() -> None:
        try:
            ends.append(type(lab.ask(tickets, lab.credential("wrong"))))
        except errors.MspError as error:
            ends.append(type(error))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tickets.close()
    assert lab.kdc.failures("svc") == 1
    assert ends.count(errors.LogonRejectedError) == 1
    assert ends.count(errors.LogonNotAllowedError) == 15


def test_a_kdc_that_is_silent_is_no_strike_and_the_next_one_is_asked(lab: KerberosLab) -> None:
    with socket.create_server((take_address(), 88)) as silent:
        dead = Kdc(take_address(), REALM, netbios_name="CORP")
        mute = Kdc(silent.getsockname()[0], REALM, netbios_name="CORP")
        tickets = lab.tickets(exchange_s=1.5)
        kdcs = (dead, mute, *lab.kdcs(lab.credential()))
        assert isinstance(lab.ask(tickets, lab.credential(), kdcs=kdcs), ServiceTicket)
        # For a while nobody waits for those two again.
        assert isinstance(lab.ask(tickets, lab.credential(version=2), kdcs=kdcs), ServiceTicket)
        silent.settimeout(0)
        silent.accept()[0].close()
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
        tickets.close()
    assert lab.ledger.state(lab.credential()).state == "proven"


def test_a_kdc_that_stays_silent_is_asked_ever_more_rarely_and_again_at_once_after_it_answered(
    lab: KerberosLab,
) -> None:
    now = [0.0]
    tickets = lab.tickets(clock=lambda: now[0], silent_s=60.0)
    kdcs = lab.kdcs(lab.credential())
    lab.kdc.stop()
    for until in (60.0, 60.0 + 120.0):
        assert lab.ask(tickets, lab.credential()) == NotApplicable("kdc-unreachable")
        now[0] = until - 1
        assert tickets.bar(kdcs) == "kdc-unreachable"
        now[0] = until
        assert tickets.bar(kdcs) is None
    lab.kdc.start()
    assert isinstance(lab.ask(tickets, lab.credential()), ServiceTicket)
    # Its next silence begins with the shortest wait.
    lab.kdc.stop()
    assert lab.ask(tickets, lab.credential()) == NotApplicable("kdc-unreachable")
    now[0] += 60.0
    assert tickets.bar(kdcs) is None
    tickets.close()


def test_a_kdc_that_falls_silent_after_the_ticket_ends_the_exchange_and_not_us(lab: KerberosLab) -> None:
    tickets = lab.tickets(exchange_s=2.0)
    lab.ask(tickets, lab.credential())
    (pid,) = workers()
    lab.kdc.stop()
    assert lab.ask(tickets, lab.credential()) == NotApplicable("kdc-unreachable")
    assert gone(pid)
    tickets.close()


def test_a_hung_kdc_ends_its_worker_at_the_deadline_also_when_it_hangs_at_a_host(lab: KerberosLab) -> None:
    address = take_address()
    with Between(address, lab.kdc) as between:
        tickets = lab.tickets(exchange_s=1.5)
        kdcs = (Kdc(address, REALM, netbios_name="CORP"),)
        assert isinstance(lab.ask(tickets, lab.credential(), kdcs=kdcs), ServiceTicket)
        (pid,) = workers()
        between.holds = True
        assert lab.ask(tickets, lab.credential(), kdcs=kdcs) == NotApplicable("kdc-unreachable")
        assert gone(pid)
        tickets.close()


class Between:
    """Stands before a KDC; passes on, or holds what comes."""

    def __init__(self, address: str, kdc: RealKdc) -> None:
        self.holds = False
        self._kdc = (kdc.address, kdc.port)
        self._listener = socket.create_server((address, 88))
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for held in self._held:
            held.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.holds:
                    self._held.append(client)
                    continue
                with client, socket.create_connection(self._kdc) as server:
                    request = client.recv(65536)
                    if request:
                        server.sendall(request)
                        client.sendall(server.recv(65536))


class Holding(Between):
    """Passes on the first request alone: what is made with the password gets no answer."""

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                request = client.recv(65536)
                if not request:
                    client.close()
                elif self.holds:
                    self._held.append(client)
                else:
                    self.holds = True
                    with client, socket.create_connection(self._kdc) as server:
                        server.sendall(request)
                        client.sendall(server.recv(65536))


def test_a_password_that_a_kdc_did_not_answer_may_be_a_strike_and_is_no_way_to_ntlm(lab: KerberosLab) -> None:
    # Lesson 32.
    for _ in range(2):
        address = take_address()
        with Holding(address, lab.kdc):
            tickets = lab.tickets(exchange_s=1.0)
            with pytest.raises(errors.LogonError) as caught:
                lab.ask(tickets, lab.credential(), kdcs=(Kdc(address, REALM, netbios_name="CORP"),))
            tickets.close()
        assert caught.value.code == "logon-unanswered"
    assert lab.ledger.state(lab.credential()).code == "logon-outcome-unknown"
    assert workers() == []


def answering(answer: bytes) -> tuple[socket.socket, Kdc]:
    """A KDC that says one thing."""
    listener = socket.create_server((take_address(), 88))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    if client.recv(65536):
                        client.sendall(len(answer).to_bytes(4, "big") + answer)

    threading.Thread(target=serve, daemon=True).start()
    return listener, Kdc(listener.getsockname()[0], REALM, netbios_name="CORP")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        # A KRB-ERROR without GSS-API's head around it.
        (render_error(37)[15:], "clock-skew"),
        (render_error(14)[15:], "no-common-cipher"),
        (b"no Kerberos at all", "kerberos-refused"),
    ],
)
def test_a_kdc_that_does_not_go_through_with_it_is_no_strike_and_no_way_to_ntlm(
    lab: KerberosLab, answer: bytes, code: str
) -> None:
    listener, kdc = answering(answer)
    tickets = lab.tickets()
    with pytest.raises(errors.LogonError) as caught:
        lab.ask(tickets, lab.credential(), kdcs=(kdc,))
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    tickets.close()
    assert (caught.value.code, caught.value.retryable) == (code, True)
    # The ledger has no attempt of it.
    with lab.ledger.attempt(lab.credential(), place="controller", host="dc1") as attempt:
        attempt.not_sent()
    assert lab.ledger.state(lab.credential()).state == "unproven"


def test_an_account_of_another_domain_is_not_asked_for(lab: KerberosLab) -> None:
    tickets = lab.tickets()
    other = lab.credential(username=r"OTHER\svc", netbios_name=None)
    assert lab.ask(tickets, other) == NotApplicable("other-domain-account")
    unnamed = (Kdc(lab.kdc.address, REALM),)
    assert lab.ask(tickets, lab.credential(), kdcs=unnamed) == NotApplicable("netbios-unknown")
    assert lab.kdc.requests("AS_REQ") == []
    tickets.close()


def test_who_is_cancelled_waits_no_longer_for_the_worker(lab: KerberosLab) -> None:
    tickets = lab.tickets()
    lab.ask(tickets, lab.credential())
    cancelled = threading.Event()
    cancelled.set()
    account = tickets._accounts[lab.credential().ledger_key]
    with account.lock, pytest.raises(errors.UnreachableError):
        tickets.begin(
            lab.credential(), lab.kdcs(lab.credential()), ("host",), "srv1", binding=None, cancelled=cancelled
        )
    tickets.close()


PROGRAM = """
    import sys, threading, time
    from pathlib import Path
    from msp_sdk.models.credential import Credential
    from msp_sdk.network.kerberos_tickets import Kdc, KerberosTickets
    from msp_sdk.network.logons import LogonLedger
    from msp_sdk.secret import Secret

    folder, address, password = sys.argv[1], sys.argv[2], sys.stdin.readline().rstrip("\\n")
    tickets = KerberosTickets(LogonLedger(Path(folder) / "owner.db"))
    credential = Credential("c1", 1, "service_account", "svc", lambda: Secret(password), domain_name="corp.example")
    kdcs = (Kdc(address, "corp.example"),)
    tickets.begin(credential, kdcs, ("host",), "srv1.corp.example", binding=None, cancelled=threading.Event())
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_worker_ends_with_its_owner_however_that_ends(lab: KerberosLab, tmp_path: Path, how: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path), lab.kdc.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    with owner:
        owner.stdin.write(f"{LAB_PASSWORD}\n")
        owner.stdin.flush()
        assert owner.stdout.readline() == "ready\n"
        (pid,) = workers_of(owner.pid)
        owner.send_signal(how)
        owner.wait()
    assert gone(pid)
