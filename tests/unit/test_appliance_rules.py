"""The daemon's small rules: waiting, settings, state files, one daemon a folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msp_sdk.checkin import CompletedGenerations, next_wait_s, phase_s
from msp_sdk.errors import ConfigError, StateError
from msp_sdk.models.computer import Computer, Enumeration, EnumerationChanges, RemovedComputer, apply_changes
from msp_sdk.provisioning.config import write_atomically
from runners.appliance.backoff import Backoff
from runners.appliance.kept_enumeration import join_changes
from runners.appliance.network_marks import read_network_marks
from runners.appliance.settings import read_settings
from runners.appliance.state import RolloutRecord, StateFiles, only_one


def test_appliances_spread_over_the_interval_by_their_id() -> None:
    """Lesson 18."""
    phases = [phase_s(f"site-{number}", 60.0) for number in range(600)]
    assert all(0 <= phase < 60 for phase in phases)
    for tenth in range(10):
        assert 30 <= sum(1 for phase in phases if tenth * 6 <= phase < (tenth + 1) * 6) <= 95


def test_back_off_has_full_jitter_and_ends_at_five_minutes() -> None:
    assert next_wait_s(60, 0, None, draw=lambda: 0.5) == 60
    assert next_wait_s(60, 1, None, draw=lambda: 0.999) < 60
    assert next_wait_s(60, 50, None, draw=lambda: 0.999) <= 300
    assert next_wait_s(60, 50, None, draw=lambda: 0.0) <= 1


def test_retry_after_is_obeyed() -> None:
    assert next_wait_s(60, 3, 17.0, draw=lambda: 0.0) == 17.0


def test_back_off_is_not_due_before_its_time_and_reset_makes_it_due() -> None:
    now = [100.0]
    backoff = Backoff(2.0, 60.0, clock=lambda: now[0], draw=lambda: 1.0)
    assert backoff.due()
    backoff.failed()
    assert not backoff.due()
    now[0] += 2.0
    assert backoff.due()
    for _ in range(40):
        backoff.failed()
    assert backoff.wait_s() <= 60.0
    backoff.reset()
    assert backoff.due()


def test_resolvers_come_from_arguments_before_the_environment() -> None:
    environ = {"MSP_RESOLVERS": "10.0.0.1, 10.0.0.2:5353", "MSP_SEARCH": "a.example,b.example"}
    assert read_settings(environ).resolvers == (("10.0.0.1", 53), ("10.0.0.2", 5353))
    assert read_settings(environ, resolvers=("[::1]:53",)).resolvers == (("::1", 53),)
    assert read_settings(environ).search == ("a.example", "b.example")
    assert read_settings({"MSP_EXCLUDED": "10.0.9.0/24, 10.0.0.7"}).excluded.covers("10.0.0.7")
    with pytest.raises(ConfigError):
        read_settings({"MSP_EXCLUDED": "10.0.9.0/24, the scanner"})
    believed = read_settings({"MSP_SILENCE_TTL": "60", "MSP_LIVE_TTL": " "})
    assert (believed.silence_ttl_s, believed.live_ttl_s) == (60.0, 300.0)
    for text in ("an hour", "-1", "nan", "1e9"):
        with pytest.raises(ConfigError):
            read_settings({"MSP_LIVE_TTL": text})


def test_malformed_resolver_is_an_error_of_the_call() -> None:
    with pytest.raises(ConfigError):
        read_settings({}, resolvers=("10.0.0.1:99999",))


def test_settings_do_not_show_the_code() -> None:
    assert "K7QX" not in repr(read_settings({"MSP_PROVISION_CODE": "K7QX-0000-0000-0000"}))


def test_completed_generations_survive_a_restart_and_never_go_back(tmp_path: Path) -> None:
    path = tmp_path / "completed.json"
    CompletedGenerations(path, write_atomically).complete("scan", 3)
    again = CompletedGenerations(path, write_atomically)
    again.complete("scan", 2)
    assert again.completed == {"scan": 3}


def test_damaged_generations_mean_that_work_is_done_once_more(tmp_path: Path) -> None:
    path = tmp_path / "completed.json"
    path.write_text('{"scan":')
    assert CompletedGenerations(path, write_atomically).completed == {}


def test_damaged_state_file_is_set_aside_and_not_believed(tmp_path: Path) -> None:
    state = StateFiles(tmp_path)
    state.save("rollout-r1", RolloutRecord("r1", 1))
    assert state.load_rollout("r1", 1) == RolloutRecord("r1", 1)
    (tmp_path / "rollout-r1.json").write_text('{"rollout_id": 3')
    assert state.load("rollout-r1", RolloutRecord) is None
    assert (tmp_path / "rollout-r1.damaged").exists()


def test_rollout_ids_cannot_leave_the_folder(tmp_path: Path) -> None:
    state = StateFiles(tmp_path / "state")
    state.save("rollout-../../evil", RolloutRecord("x", 1))
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["state"]


def test_second_daemon_in_one_folder_is_refused(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(StateError), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def computers(entries: dict[int, int]) -> tuple[Computer, ...]:
    return tuple(
        Computer(f"g{guid}", f"{name}$", f"PC{name}", "other", False, False, False) for guid, name in entries.items()
    )


def changes_of(step: tuple[dict[int, int], set[int]], number: int) -> EnumerationChanges:
    changed, gone = step
    removed = tuple(RemovedComputer(f"g{guid}", "deleted") for guid in gone - set(changed))
    return EnumerationChanges("x.test", computers(changed), removed, f"c{number}", f"c{number + 1}", NOW, "dc")


STEP = st.tuples(st.dictionaries(st.integers(0, 5), st.integers(0, 2)), st.sets(st.integers(0, 5)))


@given(base=st.dictionaries(st.integers(0, 5), st.integers(0, 2)), steps=st.lists(STEP, min_size=1, max_size=5))
def test_joined_changes_give_what_each_of_them_gives_one_after_the_other(
    base: dict[int, int], steps: list[tuple[dict[int, int], set[int]]]
) -> None:
    enumeration = Enumeration("x.test", computers(base), NOW, "dc", cursor="c0")
    step_by_step, joined = enumeration, None
    for number, step in enumerate(steps):
        step_by_step = apply_changes(step_by_step, changes_of(step, number))
        joined = join_changes(joined, changes_of(step, number))
    assert joined is not None
    at_once = apply_changes(enumeration, joined)
    assert set(at_once.computers) == set(step_by_step.computers)
    assert at_once.cursor == step_by_step.cursor == f"c{len(steps)}"


LEASE = "# This is private data.\nADDRESS=10.0.0.9\nLIFETIME={lifetime}\nDNS={dns}\nDOMAINNAME={domain}\n"


def test_a_renewed_lease_is_the_same_network_and_another_domain_or_server_is_not(tmp_path: Path) -> None:
    leases = tmp_path / "run/systemd/netif/leases"
    leases.mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    resolv = tmp_path / "etc/resolv.conf"

    def write(lifetime: int = 3600, dns: str = "10.0.0.1", domain: str = "corp.example", text: str = "") -> None:
        (leases / "2").write_text(LEASE.format(lifetime=lifetime, dns=dns, domain=domain))
        resolv.write_text(text or f"nameserver {dns}\n")

    write()
    before = read_network_marks(root=tmp_path)
    write(lifetime=7200)
    assert read_network_marks(root=tmp_path) == before
    for change in ({"dns": "10.0.0.2"}, {"domain": "other.example"}, {"text": "nameserver 10.9.9.9\n"}):
        write(**change)  # type: ignore[arg-type]
        assert read_network_marks(root=tmp_path) != before
    write()
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/if_inet6").write_text("20010db8000100020000000000000010 02 40 00 00 eth0\n")
    assert read_network_marks(root=tmp_path) != before


def test_what_a_person_set_is_the_network_whatever_the_lease_says(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("nameserver 10.0.0.1\nsearch lan.example\n")
    before = read_network_marks((("10.0.0.7", 53),), ("corp.example",), root=tmp_path)
    (tmp_path / "etc/resolv.conf").write_text("nameserver 10.0.0.2\n")
    assert read_network_marks((("10.0.0.7", 53),), ("corp.example",), root=tmp_path) == before
