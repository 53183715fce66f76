"""Many hosts, one credential: who may log on next, and what ends the waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from msp_sdk.errors import LogonNotAllowedError, MspError, NotAuthorisedHereError, UnreachableError
from msp_sdk.models.credential import Credential
from msp_sdk.network.logons import LedgerOptions, LogonLedger
from msp_sdk.network.turns import Turns
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.wsman import HostsThread, WsmanHost
from msp_sdk.windows.link import HostLink
from msp_sdk.windows.shell import HostPolicy, ShellOptions, WindowsShells

NEVER = threading.Event()


def in_thread(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_turns_come_in_the_order_of_coming() -> None:
    turns, order = Turns(), []
    threads = []
    with turns.turn("c1", NEVER):
        for number in range(20):

            def work(number: int = number) -> None:
                with turns.turn("c1", NEVER):
                    order.append(number)

            threads.append(in_thread(work))
            # The next comes when this one stands in the row.
            while len(turns._rows["c1"].waiting) < number + 2:
                time.sleep(0.001)
        assert order == []
    for thread in threads:
        thread.join(5)
    assert order == list(range(20))


def test_credentials_do_not_wait_for_each_other() -> None:
    turns = Turns()
    with turns.turn("c1", NEVER), turns.turn("c2", NEVER):
        pass


def test_cancelled_one_leaves_the_row_and_the_next_is_not_held_up() -> None:
    turns, cancelled, seen = Turns(), threading.Event(), []

    def give_up() -> None:
        try:
            with turns.turn("c1", cancelled):
                seen.append("turn")
        except UnreachableError:
            seen.append("gave up")

    with turns.turn("c1", NEVER):
        first = in_thread(give_up)
        cancelled.set()
        first.join(5)
    with turns.turn("c1", NEVER):
        assert seen == ["gave up"]


def test_one_who_asked_in_vain_answers_for_all_who_stood_behind_and_for_nobody_later() -> None:
    turns, seen = Turns(), []

    def stand() -> None:
        try:
            with turns.turn("c1", NEVER):
                seen.append("asked")
        except LogonNotAllowedError as error:
            seen.append(error.code)

    def ask_in_vain() -> list[threading.Thread]:
        with turns.turn("c1", NEVER):
            behind = [in_thread(stand) for _ in range(3)]
            time.sleep(0.05)
            error = LogonNotAllowedError("not now.", code="credential-paused", retryable=True)
            error.behind = behind
            raise error

    with pytest.raises(LogonNotAllowedError) as caught:
        ask_in_vain()
    for thread in caught.value.behind:
        thread.join(5)
    stand()
    assert seen == ["credential-paused"] * 3 + ["asked"]


def open_all(lab: HostLab, shells: WindowsShells, hosts: list[WsmanHost], credential: Credential) -> list[object]:
    async def one(host: WsmanHost) -> str:
        async with shells.open(lab.target(host), credential) as shell:
            return (await shell.identify()).computer_name

    async def go() -> list[object]:
        try:
            return await asyncio.gather(*(one(host) for host in hosts), return_exceptions=True)
        finally:
            await shells.aclose()

    with HostsThread(hosts):
        return asyncio.run(go())


@pytest.fixture
def lab(tmp_path: Path) -> HostLab:
    return HostLab(tmp_path)


def test_slow_logons_of_many_hosts_make_none_wait_in_vain(lab: HostLab, tmp_path: Path) -> None:
    # Two logons at once and 0.1 s each: the last of 60 waits three times as long as the ledger has patience.
    lab.ledger = LogonLedger(tmp_path / "short.db", options=LedgerOptions(wait_s=1.0))
    hosts = [lab.host(f"PC{number}", https=False) for number in range(60)]
    for host in hosts:
        host.faults.logon_delay_s = 0.1
    credential = lab.domain_credential()
    lab.prove(credential)
    shells = lab.shells(policy=HostPolicy(allow_ntlm=True), options=ShellOptions(threads=60))
    assert open_all(lab, shells, hosts, credential) == [host.machine.name for host in hosts]


def test_changed_password_costs_at_most_the_logons_in_flight_and_one_at_a_controller(lab: HostLab) -> None:
    # Lesson 32: proven, then changed, with many hosts at work; more hosts than threads, so that all threads wait.
    hosts = [lab.host(f"PC{number}", https=False) for number in range(40)]
    for host in hosts:
        host.faults.logon_delay_s = 0.05
    credential = lab.domain_credential("the old one")
    lab.prove(credential)
    bound: list[str] = []

    async def prove(again: Credential) -> None:
        bound.append(again.id)
        with lab.ledger.attempt(again, place="controller", host="dc1") as attempt:
            attempt.refused("wrong-password")
        raise LogonNotAllowedError("refused.", code="wrong-password")

    shells = lab.shells(policy=HostPolicy(allow_ntlm=True), prove=prove, options=ShellOptions(threads=8))
    begun = time.monotonic()
    outcomes = open_all(lab, shells, hosts, credential)
    assert all(isinstance(outcome, MspError) for outcome in outcomes)
    assert lab.service.bad_password_count <= 2
    assert bound == ["c1"]
    assert {getattr(outcome, "code", "") for outcome in outcomes} == {"wrong-password"}
    assert time.monotonic() - begun < 20


def test_hosts_that_hang_up_at_the_logon_pause_it_until_a_controller_is_asked_and_nobody_waits_for_more(
    lab: HostLab, tmp_path: Path
) -> None:
    # Lesson 32: each of them may be a strike. Whoever met the second one asks the controller; else all would wait.
    lab.ledger = LogonLedger(tmp_path / "short.db", options=LedgerOptions(wait_s=5.0))
    hosts = [lab.host(f"PC{number}", https=False) for number in range(16)]
    hanging = hosts[:3]
    for host in hosts:
        host.faults.logon_delay_s = 0.05
    for host in hanging:
        host.faults.drop_logons = 1
    credential = lab.domain_credential()
    lab.prove(credential)
    bound: list[str] = []

    async def prove(again: Credential) -> None:
        bound.append(again.id)
        lab.prove(again)

    shells = lab.shells(policy=HostPolicy(allow_ntlm=True), prove=prove, options=ShellOptions(threads=16))
    outcomes = open_all(lab, shells, hosts, credential)
    for host, outcome in zip(hosts, outcomes, strict=True):
        if host in hanging:
            assert getattr(outcome, "code", outcome) == "connection-lost"
            assert host.logon_count == 1
        else:
            assert outcome == host.machine.name
    assert bound
    assert lab.ledger.state(credential).state == "proven"


def test_many_hosts_that_refuse_for_themselves_are_told_apart_while_the_others_are_worked_with(lab: HostLab) -> None:
    hosts = [lab.host(f"PC{number}", https=False) for number in range(24)]
    refusing = hosts[::6]
    for host in refusing:
        host.faults.refuse_logons = True
    credential = lab.domain_credential()
    lab.prove(credential)

    async def prove(again: Credential) -> None:
        await asyncio.to_thread(lab.prove, again)

    shells = lab.shells(policy=HostPolicy(allow_ntlm=True), prove=prove, options=ShellOptions(threads=8))
    outcomes = open_all(lab, shells, hosts, credential)
    for host, outcome in zip(hosts, outcomes, strict=True):
        if host in refusing:
            assert isinstance(outcome, NotAuthorisedHereError)
        else:
            assert outcome == host.machine.name
    assert lab.ledger.state(credential).state == "proven"


def test_cancelling_everything_leaves_no_thread_no_shell_and_no_logon_behind(lab: HostLab) -> None:
    hosts = [lab.host(f"PC{number}", https=False) for number in range(30)]
    for host in hosts:
        host.faults.logon_delay_s = 0.3
    credential = lab.domain_credential()
    lab.prove(credential)

    async def go() -> None:
        shells = lab.shells(policy=HostPolicy(allow_ntlm=True), options=ShellOptions(threads=30))

        async def one(host: WsmanHost) -> None:
            async with shells.open(lab.target(host), credential):
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(one(host)) for host in hosts]
        await asyncio.sleep(1.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await shells.aclose()

    begun = time.monotonic()
    with HostsThread(hosts):
        asyncio.run(go())
        assert [host.shells.shells for host in hosts] == [{}] * 30
    assert time.monotonic() - begun < 10
    # Both places in flight are free again, and nothing counts against any host.
    with (
        lab.ledger.attempt(credential, place="host", host="a") as first,
        lab.ledger.attempt(credential, place="host", host="b") as second,
    ):
        first.succeeded()
        second.succeeded()
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("msp-windows") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_aborted_session_does_not_wait_for_its_logon_any_longer(lab: HostLab) -> None:
    host = lab.host(https=False)
    credential = lab.local_credential()
    shells = lab.shells()
    link = HostLink(lab.target(host), credential, shells._tools, policy=HostPolicy(), options=ShellOptions())
    ended: list[BaseException] = []

    def work() -> None:
        try:
            link.log_on()
        except MspError as error:
            ended.append(error)

    # An unproven version has one logon in flight; this one does not end.
    with HostsThread([host]), lab.ledger.attempt(credential, place="host", host="other") as held:
        thread = in_thread(work)
        while not host.operations and not host.connection_count:
            time.sleep(0.01)
        link.abort()
        thread.join(20)
        assert not thread.is_alive()
        held.not_sent()
    asyncio.run(shells.aclose())
    assert [error.code for error in ended if isinstance(error, MspError)] == ["connection-lost"]
    assert host.logon_count == 0


def test_version_that_a_killed_process_left_paused_is_proven_before_the_next_host_sees_it(lab: HostLab) -> None:
    host = lab.host("PC1", https=False)
    credential = lab.domain_credential()
    lab.prove(credential)
    with lab.ledger.attempt(credential, place="host", host="another") as attempt:
        assert attempt.refused("wrong-password") == "paused"
    proven: list[str] = []

    async def prove(again: Credential) -> None:
        proven.append(again.id)
        await asyncio.to_thread(lab.prove, again)

    shells = lab.shells(policy=HostPolicy(allow_ntlm=True), prove=prove)
    begun = time.monotonic()
    assert open_all(lab, shells, [host], credential) == [host.machine.name]
    assert proven == ["c1"]
    assert time.monotonic() - begun < 10
