"""Sites drawn from a seed: always the same one, with just the trouble that was asked for, told alike everywhere."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from operator import attrgetter

import dns.rdatatype
import pytest
from attrs import evolve

from msp_sdk import ADEnumerator, DiscoveryOptions, DomainDiscoverer, EnumerationOptions, LogonLedger
from msp_sdk.directory.entry import Entry, parse_sid
from msp_sdk.directory.session import DirectoryOptions
from msp_sdk.enumeration.classify import classify
from msp_sdk.errors import ConfigError
from msp_sdk.models.computer import Computer
from msp_sdk.models.reason import REASONS
from msp_sdk.testing import Account, Accounts, Estate, EstateSpec, RunningEstate, wsman_faults
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.estate_faults import COMPUTER_LAYERS, LAYERS, PRESETS, TROUBLES, parse_faults
from msp_sdk.testing.estate_hosts import WINRM_DOORS, make_planned_host
from msp_sdk.testing.estate_plan import FIRST_RID, plan_computers
from msp_sdk.testing.estate_site import plan_site
from msp_sdk.testing.violations import violations_of

NOW = datetime(2026, 5, 4, tzinfo=UTC)


def plan(seed: int = 7, computers: int = 200, faults="none", **more):
    return plan_site(seed, computers=computers, faults=faults, network=77, now=NOW, **more)


def test_same_seed_gives_the_same_site_and_another_seed_another_one():
    assert plan(7, faults="hell") == plan(7, faults="hell")
    assert {entry.name for entry in plan(7)} != {entry.name for entry in plan(8)}


@pytest.mark.parametrize("seed", range(5))
def test_names_addresses_and_accounts_are_each_computers_own(seed):
    computers = plan(seed, 500)
    for what in ("name", "address", "rid"):
        assert len({getattr(entry, what) for entry in computers}) == 500
    assert all(len(entry.name) <= 15 for entry in computers)


def test_accounts_of_the_demos_clinic_are_each_computers_own_too():
    rids = [entry.rid for entry in plan_computers(2500, network=77, now=NOW)]
    assert rids == list(range(FIRST_RID, FIRST_RID + 2500))


def test_share_and_count_are_kept_and_each_has_a_computer_to_itself():
    computers = plan(faults={"silent": 0.1, "self-signed": 3, "slow": 0.25})
    found = Counter(name for entry in computers for name in entry.troubles)
    assert found == {
        "silent": 19,
        "self-signed": 3,
        "slow": 49,
    }  # of the 197 that are neither controllers nor kept well
    assert max(len(entry.troubles) for entry in computers) == 1


def test_everything_at_once_lies_one_upon_the_other_and_ends_with_what_decides():
    computers = plan(faults="hell")
    assert max(len(entry.troubles) for entry in computers) > 2
    for entry in computers:
        layers = [LAYERS.index(TROUBLES[name].layer) for name in entry.troubles]
        assert layers == sorted(set(layers)), entry.troubles
        deciding = [name for name in entry.troubles if TROUBLES[name].truth]
        assert deciding == ([entry.decided_by] if entry.decided_by else [])
        if entry.decided_by:
            assert entry.troubles[-1] == entry.decided_by
            assert entry.truth == TROUBLES[entry.decided_by].truth


def test_program_may_give_up_at_the_second_thing_that_goes_wrong_once():
    computers = plan(computers=16, faults={"forgets-logon": 1.0, "shell-gone": 1.0})
    both = [entry for entry in computers if len(entry.troubles) == 2]
    assert both
    assert {entry.or_else for entry in both} == {("connection-lost",)}
    assert {entry.or_else for entry in plan(faults={"forgets-logon": 3})} == {()}


@pytest.mark.parametrize("faults", ["none", *PRESETS, "silent=0.1", "silent=2,self-signed=0.5"])
def test_mixes_can_be_named_or_written(faults):
    assert plan(faults=parse_faults(faults))


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"silnet": 1}, "no faults silnet; there are antivirus, "),
        ("hel", "no mix of faults 'hel'; there are none, clinic, each, storm, hell."),
        ({"silent": 1.5}, "neither a share"),
        ({"silent": -1}, "neither a share"),
        ({"silent": 198}, "not 198 computers left"),
        ({"silent": 150, "mute": 150}, "computers left"),
        ({"ldap-slow": 3}, "more than the 2"),
    ],
)
def test_faults_that_cannot_be_had_are_said_before_anything_runs(faults, said):
    with pytest.raises(ConfigError, match=said):
        Estate.build(7, computers=200, faults=faults)


@pytest.mark.parametrize("text", ["silent=", "silent=much", "=1", "silnet=1"])
def test_what_is_no_fault_in_writing_is_refused(text):
    with pytest.raises(ConfigError):
        parse_faults(text)


def test_every_trouble_can_be_told_by_its_reason_and_no_endpoint_trouble_is_left_out():
    for name, trouble in TROUBLES.items():
        assert trouble.says, name
        assert {trouble.truth, *trouble.or_else} - {None} <= set(REASONS), name
    used = {trouble.hitch.name for trouble in TROUBLES.values() if trouble.hitch}
    assert used == set(wsman_faults.TROUBLES)


ON_HOSTS = [name for name, each in TROUBLES.items() if (each.host or each.hitch) and each.layer in COMPUTER_LAYERS]


@pytest.mark.parametrize("name", ON_HOSTS)
def test_every_trouble_of_a_host_is_set_on_it(name):
    trouble = TROUBLES[name]
    (entry,) = (entry for entry in plan(computers=16, faults={name: 1}) if entry.troubles)
    accounts, ca = Accounts([Account("svc", "right", "CORP", "corp.example")]), EstateCA.make("CA")
    host, well = (
        make_planned_host(each, accounts, ca, domain="corp.example", netbios_name="CORP")
        for each in (entry, evolve(entry, troubles=()))
    )
    for path, value in trouble.host.items():
        assert attrgetter(path)(host) == value != attrgetter(path)(well)
    if trouble.hitch:
        assert (host.faults, host.shells.quotas) != (well.faults, well.shells.quotas)


def run(faults, look, computers=40, **more):
    async def go():
        async with Estate.build(7, computers=computers, faults=faults, **more) as estate:
            return look(estate)

    return asyncio.run(go())


def classified(estate: RunningEstate) -> dict[str, Computer]:
    found = {}
    for held in estate.directories[0].spec.entries:
        entry = classify(Entry(held.dn, dict(held.folded)), domain_name=estate.spec.domain, now=datetime.now(UTC))
        if isinstance(entry, Computer):
            found[entry.sam_account_name.rstrip("$")] = entry
    return found


def test_directory_dns_and_hosts_tell_of_one_site():
    def look(estate: RunningEstate) -> None:
        computers = classified(estate)
        well = {entry.address: entry for entry in estate.plan if not entry.troubles}
        for entry in estate.plan:
            held = computers[entry.name.upper()]
            layer = TROUBLES[entry.decided_by].layer if entry.decided_by else None
            assert held.skipped_reason == (entry.truth if layer == "account" else None), entry
            answer = estate.zone.answer(estate.zone.name(entry.name), dns.rdatatype.A)
            assert [each.address for each in answer or ()] == ([entry.address] if entry.address else [])
            assert (entry.name in estate.hosts) == (entry.door in WINRM_DOORS and entry.address is not None)
            if entry.name in estate.hosts:
                machine = estate.hosts[entry.name].machine
                assert (machine.sid == held.sid) == (entry.decided_by != "reinstalled")
                assert (machine.name == entry.name) == ("renamed" not in entry.troubles)
            if entry.decided_by == "stale-record":
                assert well[entry.address].role == "server"
        sids = [parse_sid(held.attributes["objectSid"][0]) for held in estate.directories[0].spec.entries]
        assert len(set(sids)) == len(sids)

    run("each", look, computers=90)


def test_controllers_and_dns_have_the_troubles_that_were_asked_for():
    def look(estate: RunningEstate) -> None:
        first, second = estate.directories
        assert (first.faults.silent, second.faults.silent) == (True, False)
        assert second.demands_signing is False
        assert estate.dns.faults.delay_s > 0

    run({"ldap-silent": 1, "ldap-unsigned": 1, "dns-slow": 1}, look)


def test_every_trouble_of_controllers_and_dns_can_be_set():
    controllers = [name for name, each in TROUBLES.items() if each.layer == "controller"]
    names = [*controllers, *(name for name, each in TROUBLES.items() if each.layer == "dns")]
    run(dict.fromkeys(names, 1), lambda _: None, controllers=len(controllers))


@pytest.mark.parametrize("name", [name for name, each in TROUBLES.items() if each.layer in ("controller", "dns")])
def test_directory_is_read_whole_whatever_is_wrong_with_its_first_controller_or_dns(name, tmp_path):
    async def go():
        async with Estate.build(7, computers=16, faults={name: 1}) as estate:
            options = DiscoveryOptions(resolvers=(estate.dns.server,), search=(estate.spec.domain,))
            domain = (await DomainDiscoverer(options=options).discover()).best
            how = EnumerationOptions(directory=DirectoryOptions(receive_timeout_s=0.5))
            ledger = LogonLedger(tmp_path / "ledger.db")
            async with ADEnumerator(domain, estate.domain_credential(), ledger=ledger, options=how) as enumerator:
                found = await enumerator.enumerate()
            assert {entry.hostname.upper() for entry in found.computers} == {entry.name for entry in estate.plan}
            assert estate.violations() == ()

    asyncio.run(go())


def test_truth_goes_with_what_happens_to_a_computer():
    async def go():
        async with Estate.build(7, computers=16, faults={"not-yet-started": 1, "renamed": 1, "silent": 1}) as estate:
            new, renamed, silent = (
                next(entry.name for entry in estate.plan if name in entry.troubles)
                for name in ("not-yet-started", "renamed", "silent")
            )
            await estate.boot(new)
            await estate.rename(renamed, "BACK-1")
            await estate.disable(silent)
            told = estate.trouble_facts()
            assert told[new] == {"truth": "agent", "or_else": [], "troubles": [], "layer": None}
            assert told[silent]["troubles"] == ["disabled-account"]
            assert told[silent]["layer"] == "account"
            assert estate.hosts["BACK-1"].machine.name == "BACK-1"

    asyncio.run(go())


def test_without_a_seed_it_is_the_clinic_of_the_demo():
    assert EstateSpec(computers=16).plan(77, NOW) == plan_computers(16, network=77, now=NOW)


def test_password_that_was_refused_and_is_shown_again_is_a_violation_and_the_right_one_is_none():
    # lesson 32
    account = Account("svc", "right", "CORP")
    accounts = Accounts([account])
    accounts.check(account, "wrong", "DC1")
    assert violations_of([], accounts) == ()
    accounts.check(account, "right", "DC1")
    accounts.check(account, "wrong", "SRV1")
    assert violations_of([], accounts) == ()
    accounts.check(account, "wrong", "SRV2")
    assert violations_of([], accounts) == ("CORP\\svc: shown to SRV2 again after SRV1 had refused its password",)
