"""The daemon as a whole: the heartbeat beside work, reports over an outage, revocation, moving, signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from attrs import evolve

from msp_sdk.checkin import next_wait_s
from msp_sdk.errors import NotEnrolledError, StateError
from msp_sdk.models.domain import Domain, DomainDiscovery, make_discovery_report
from msp_sdk.models.partner import Partner
from msp_sdk.models.provision import Enrolment
from msp_sdk.provisioning import save_config
from msp_sdk.secret import Secret
from runners.appliance.cycle import Cycle
from runners.appliance.daemon import Daemon, happens, run_appliance
from runners.appliance.settings import ApplianceSettings
from runners.appliance.state import only_one
from runners.appliance.wiring import EnrolmentMovedError, open_tools
from tests.unit.appliance_lab import until


class ScriptedCentral:
    """An HTTP peer that answers as it is told, and remembers what came, in order."""

    def __init__(self) -> None:
        self.beats: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.extra: dict[str, Any] = {}
        self.server_time = lambda: datetime.now(UTC)
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length")
            )
            self.keys += [line[15:] for line in head.splitlines() if line.lower().startswith("authorization: ")]
            body = json.loads(await reader.readexactly(length))
            if "/checkin" in head.splitlines()[0]:
                self.beats.append(body)
            elif self.status == 200:
                self.reports.append(body)
            answer = {
                "status": "ok",
                "appliance_id": "a",
                "server_time": self.server_time().isoformat(),
                "next_checkin_seconds": 0.2,
                **self.extra,
            }
            content = json.dumps(answer if self.status == 200 else {"code": "x", "title": "x"}).encode()
            lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
            writer.write(
                f"HTTP/1.1 {self.status} X\r\nContent-Type: application/json\r\n{lines}"
                f"Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode()
                + content
            )
            await writer.drain()
        writer.close()


def place(folder: Path, port: int, site: str = "s1") -> tuple[ApplianceSettings, Enrolment]:
    enrolment = Enrolment(
        site_id=site,
        appliance_id=f"{site}-00:15:5D:00:00:01",
        api_key=Secret("ak_s1_x"),
        api_endpoint=f"http://127.0.0.1:{port}",
        checkin_interval_seconds=0.2,
        partner=Partner("p1", "contoso", "Contoso IT"),
        provisioned_at=datetime.now(UTC),
        mac_address="00:15:5D:00:00:01",
        hostname="box",
    )
    settings = ApplianceSettings(config=folder / "config.yaml", resolvers=(("127.0.0.1", 1),), search=("nowhere.test",))
    save_config(settings.config, enrolment)
    return settings, enrolment


@contextlib.asynccontextmanager
async def running(daemon: Daemon) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(daemon.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Exploding:
    """A discoverer with a mistake in it."""

    def __init__(self) -> None:
        self.calls = 0

    async def discover(self, known: Sequence[Domain] = ()) -> DomainDiscovery:
        self.calls += 1
        raise KeyError("unforeseen")


class Endless:
    """A discoverer that never comes back."""

    def __init__(self) -> None:
        self.cut_off = False

    async def discover(self, known: Sequence[Domain] = ()) -> DomainDiscovery:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cut_off = True
            raise
        raise AssertionError


def test_heartbeat_goes_on_while_work_never_ends(tmp_path: Path) -> None:
    """Lesson 37."""

    async def run() -> None:
        async with ScriptedCentral() as central:
            settings, enrolment = place(tmp_path, central.port)
            async with open_tools(settings, enrolment) as tools:
                tools.discoverer = Endless()  # type: ignore[assignment]
                async with running(Daemon(tools, 0.2)):
                    await until(lambda: len(central.beats) >= 6)

    asyncio.run(run())


def test_heartbeat_goes_on_while_a_directory_is_slow(open_lab: Callable[..., Any]) -> None:
    """Lesson 37, with threads that really block."""

    async def run() -> None:
        async with open_lab(checkin_interval_seconds=0.3) as lab:
            await lab.give_credential()
            for server in lab.estate.directories:
                server.faults.delay_s = 1.0
            async with lab.tools() as tools:
                seen = set()
                async with running(Daemon(tools, 0.3)), asyncio.timeout(20):
                    while len(seen) < 4:
                        (appliance,) = await lab.partner.appliances(lab.site_id)
                        seen.add(appliance.last_seen_at)
                        await asyncio.sleep(0.02)
                assert tools.completed.completed.get("enumeration", 0) == 0, "the work was still under way"

    asyncio.run(run())


def test_mistake_of_our_own_is_logged_told_and_tried_again_with_back_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with ScriptedCentral() as central:
            settings, enrolment = place(tmp_path, central.port)
            async with open_tools(settings, enrolment) as tools:
                broken = Exploding()
                tools.discoverer = broken  # type: ignore[assignment]
                async with running(Daemon(tools, 0.2)) as daemon:
                    await until(lambda: any(beat["health"].get("problems") for beat in central.beats))
                    await asyncio.sleep(1)
                    assert not daemon.done()
                assert central.beats[-1]["health"]["problems"] == {"discover": "internal"}
                assert broken.calls <= 2, "it waits longer each time"

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert any(record.exc_info for record in caplog.records), "with its trace"


def test_step_that_fails_does_not_hold_up_the_others(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(computers=None) as lab, lab.tools() as tools:
            tools.discoverer = Exploding()
            await lab.partner.wish_scan(lab.site_id)
            await lab.beat(tools)
            cycle = Cycle(tools)
            await cycle.run()
            assert cycle.problems == {"discover": "internal"}
            assert tools.completed.completed["scan"] >= 1

    asyncio.run(run())


def test_reports_of_an_outage_are_kept_and_delivered_in_their_order(tmp_path: Path) -> None:
    """Lesson 15; also over a restart."""

    async def run() -> None:
        central = ScriptedCentral()
        async with central:
            settings, enrolment = place(tmp_path, central.port)
        async with open_tools(settings, enrolment) as tools:
            tools.discoverer = Endless()  # type: ignore[assignment]
            async with running(Daemon(tools, 0.2)):
                begun = time.monotonic()
                for number in range(5):
                    await tools.report(make_discovery_report(f"r{number}", DomainDiscovery(())))
                assert time.monotonic() - begun < 1, "work does not wait for Central"
                await asyncio.sleep(0.3)
        async with open_tools(settings, enrolment) as tools:
            tools.discoverer = Endless()  # type: ignore[assignment]
            async with running(Daemon(tools, 0.2)):
                await tools.report(make_discovery_report("r5", DomainDiscovery(())))
                await asyncio.sleep(0.3)
                assert tools.checkin.waiting_count == 6
                async with central:
                    await until(lambda: len(central.reports) >= 6)
                    await until(lambda: tools.checkin.waiting_count == 0)
        assert [report["report_id"] for report in central.reports] == [f"r{number}" for number in range(6)]

    asyncio.run(run())


def test_two_who_send_at_once_send_each_report_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedCentral() as central:
            settings, enrolment = place(tmp_path, central.port)
            async with open_tools(settings, enrolment) as tools:
                for number in range(20):
                    await tools.report(make_discovery_report(f"r{number}", DomainDiscovery(())))
                await asyncio.gather(*(tools.checkin.flush() for _ in range(5)))
            assert [report["report_id"] for report in central.reports] == [f"r{number}" for number in range(20)]

    asyncio.run(run())


def test_revoked_appliance_stops_what_it_does_and_forgets_what_it_was_given(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(computers=12, checkin_interval_seconds=1) as lab:
            await lab.give_credential()
            async with lab.tools() as tools:
                work = Endless()
                tools.discoverer = work
                async with running(Daemon(tools, 0.3)) as daemon:
                    await until(lambda: tools.checkin.holdings.credentials)
                    (appliance,) = await lab.partner.appliances(lab.site_id)
                    await lab.partner.revoke(lab.site_id, appliance.id)
                    await until(lambda: work.cut_off)
                    assert tools.checkin.holdings.credentials is None
                    assert tools.checkin.holdings.rollouts == ()
                    assert tools.checkin.holdings.credentials_version is None
                    assert tools.checkin.holdings.seen_versions, "a replay is still known as one"
                    assert not daemon.done()
            assert lab.estate.credential.attempts == []

    asyncio.run(run())


def test_key_that_is_good_again_brings_the_work_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedCentral() as central:
            settings, enrolment = place(tmp_path, central.port)
            async with open_tools(settings, enrolment) as tools:
                broken = Exploding()
                tools.discoverer = broken  # type: ignore[assignment]
                central.status = 401
                async with running(Daemon(tools, 0.2)):
                    await until(lambda: len(central.beats) >= 2)
                    calls = broken.calls
                    await tools.report(make_discovery_report("r0", DomainDiscovery(())))
                    central.status = 200
                    await until(lambda: broken.calls > calls)
                    await until(lambda: central.reports)

    asyncio.run(run())


def test_reply_with_unknown_fields_is_taken(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedCentral() as central:
            central.extra = {"moon_phase": "full", "site_policy": {"allow_ntlm": True, "shoe_size": 44}}
            settings, enrolment = place(tmp_path, central.port)
            async with open_tools(settings, enrolment) as tools:
                await Daemon(tools, 0.2).check_in()
                assert tools.checkin.holdings.policy.allow_ntlm

    asyncio.run(run())


def test_skewed_clock_is_told_at_the_next_check_in_and_never_set(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedCentral() as central:
            central.server_time = lambda: datetime.now(UTC) - timedelta(seconds=90)
            settings, enrolment = place(tmp_path, central.port)
            async with open_tools(settings, enrolment) as tools:
                daemon = Daemon(tools, 0.2)
                await daemon.check_in()
                await daemon.check_in()
            assert central.beats[0]["health"] == {}
            assert 85 <= central.beats[1]["health"]["clock_skew_s"] <= 95

    asyncio.run(run())


def test_retry_after_holds_the_heartbeat_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedCentral() as central:
            central.status, central.headers = 503, {"Retry-After": "3"}
            settings, enrolment = place(tmp_path, central.port)
            async with open_tools(settings, enrolment) as tools:
                tools.discoverer = Endless()  # type: ignore[assignment]
                async with running(Daemon(tools, 0.2)):
                    await asyncio.sleep(1.5)
            assert len(central.beats) == 1

    asyncio.run(run())


@pytest.mark.parametrize("interval_s", [0.0, -5.0, 1e12, float("inf")])
def test_no_answer_of_central_makes_a_loop_or_silences_an_appliance(interval_s: float) -> None:
    assert 0.1 < next_wait_s(interval_s, 0, None) < 4000
    assert 0.1 < next_wait_s(60, 1, interval_s) < 4000
    assert 0.1 < next_wait_s(interval_s, 100_000, None) < 4000


def test_unusable_ledger_is_told_and_the_heartbeat_goes_on(tmp_path: Path) -> None:
    """Lesson 14."""

    async def run() -> None:
        async with ScriptedCentral() as central:
            held = {"id": "c1", "version": 1, "username": ".\\a", "kind": "local_admin", "password": "x"}
            central.extra = {"site_credentials": [held], "credentials_version": 1}
            settings, enrolment = place(tmp_path, central.port)
            async with open_tools(settings, enrolment) as tools:
                daemon = Daemon(tools, 60)
                await daemon.check_in()
                for path in settings.state_folder.glob("logons.db*"):
                    path.unlink()
                (settings.state_folder / "logons.db").write_bytes(b"no database at all" * 100)
                await daemon.check_in()
                await daemon.check_in()
            assert central.beats[-1]["health"] == {"problems": {"ledger": "ledger-unusable"}}

    asyncio.run(run())


def test_check_in_of_an_appliance_with_very_many_credentials_stays_small(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedCentral() as central:
            central.extra = {
                "windows_targets": [
                    {"hostname": f"h{n}", "username": ".\\a", "use_ssl": True, "role": "winrm", "id": f"c{n}",
                     "version": 1, "password": "x"}
                    for n in range(900)
                ],
                "credentials_version": 1,
            }  # fmt: skip
            settings, enrolment = place(tmp_path, central.port)
            async with open_tools(settings, enrolment) as tools:
                daemon = Daemon(tools, 60)
                for _ in range(6):
                    await daemon.check_in()
            assert max(len(json.dumps(beat)) for beat in central.beats) < 64 * 1024
            told = {state["id"] for beat in central.beats for state in beat["credential_states"]}
            assert len(told) == 900, "all are told, in turn"

    asyncio.run(run())


def test_no_report_of_one_site_travels_with_the_key_of_another(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedCentral() as central:
            settings, enrolment = place(tmp_path, central.port)
            async with open_tools(settings, enrolment) as tools:
                await tools.report(make_discovery_report("r0", DomainDiscovery(())))
                place(tmp_path, central.port, site="s2")
                assert await tools.checkin.flush() == 0
                with pytest.raises(EnrolmentMovedError):
                    await Daemon(tools, 1).check_in()
                assert tools.checkin.waiting_count == 1
            assert central.beats == central.reports == []
            settings, enrolment = place(tmp_path, central.port, site="s2")
            async with open_tools(settings, enrolment) as tools:
                assert tools.checkin.waiting_count == 0

    asyncio.run(run())


def test_new_key_of_the_same_place_is_used_at_once(tmp_path: Path) -> None:
    """Lesson 2."""

    async def run() -> None:
        async with ScriptedCentral() as central:
            settings, enrolment = place(tmp_path, central.port)
            async with open_tools(settings, enrolment) as tools:
                save_config(settings.config, evolve(enrolment, api_key=Secret("ak_s1_new")))
                await Daemon(tools, 1).check_in()
            assert central.keys == ["Bearer ak_s1_new"]

    asyncio.run(run())


def test_second_daemon_on_the_same_files_is_refused(tmp_path: Path) -> None:
    settings, _ = place(tmp_path, 1)
    with only_one(settings.state_folder), pytest.raises(StateError):
        asyncio.run(run_appliance(settings))


def test_one_pass_with_a_bad_key_says_so(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedCentral() as central:
            central.status = 401
            settings, _ = place(tmp_path, central.port)
            with pytest.raises(NotEnrolledError):
                await run_appliance(settings, once=True)

    asyncio.run(run())


def test_a_loop_that_is_told_to_end_ends_though_its_event_comes_in_the_same_moment() -> None:
    """A cancellation that was lost left the daemon running for ever."""

    async def wait_for_ever(event: asyncio.Event) -> None:
        while True:
            await happens(event, 60)
            event.clear()

    async def run() -> None:
        for turns in range(5):
            event = asyncio.Event()
            loop = asyncio.create_task(wait_for_ever(event))
            await asyncio.sleep(0)
            event.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            loop.cancel()
            done, _ = await asyncio.wait({loop}, timeout=5)
            assert done, turns

    asyncio.run(run())
