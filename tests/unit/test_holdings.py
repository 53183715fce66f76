"""What an appliance holds after a reply: unchanged is not empty, and old is not used."""

from __future__ import annotations

from datetime import UTC, datetime

from attrs import evolve

from msp_sdk.checkin import Holdings, absorb
from msp_sdk.checkin.holdings import learn_domain_names
from msp_sdk.models.checkin import CheckinReply, DomainCredential, SiteCredential, WindowsTarget
from msp_sdk.models.credential import Credential, SealedSecret
from msp_sdk.models.target import ManualTarget
from msp_sdk.secret import Secret

REPLY = CheckinReply(status="ok", appliance_id="a", server_time=datetime(2026, 1, 1, tzinfo=UTC))


def sealed(version: int = 1) -> SealedSecret:
    return SealedSecret(1, "suite", "key", "c1", version, b"blob")


def domain_credential(
    version: int = 1,
    id: str = "c1",  # noqa: A002
    kind: str = "service_account",
    domain_name: str = "corp.example",
) -> DomainCredential:
    return DomainCredential(
        id=id,
        version=version,
        domain_name=domain_name,
        username="svc@corp.example",
        kind=kind,  # type: ignore[arg-type]
        sealed_password=sealed(version),
    )


def full_reply(*credentials: DomainCredential, version: int = 1) -> CheckinReply:
    return evolve(
        REPLY, domain_credentials=credentials, site_credentials=(), windows_targets=(), credentials_version=version
    )


def never(_sealed: SealedSecret, _credential: Credential) -> Secret:
    raise AssertionError("nothing is opened before its use")


def test_no_credential_is_opened_before_its_use() -> None:
    held = absorb(Holdings(), full_reply(domain_credential()), never)
    assert held.credentials is not None
    assert [entry.id for entry in held.credentials] == ["c1"]


def test_credential_opens_its_own_envelope_at_use() -> None:
    asked = []

    def opener(envelope: SealedSecret, credential: Credential) -> Secret:
        asked.append((envelope, credential.username, credential.domain_name))
        return Secret("pw")

    held = absorb(Holdings(), full_reply(domain_credential()), opener)
    found = held.credential("c1")
    assert found is not None
    assert found.open().reveal() == "pw"
    assert asked == [(sealed(), "svc@corp.example", "corp.example")]


def test_null_means_unchanged() -> None:
    """Lesson 12: the version handshake, not a flag, says whether there is news."""
    held = absorb(Holdings(), full_reply(domain_credential(), version=4), never)
    assert absorb(held, REPLY, never).credentials == held.credentials
    assert absorb(held, REPLY, never).credentials_version == 4


def test_empty_list_means_none_so_the_last_credential_can_be_deleted() -> None:
    """Lesson 13."""
    held = absorb(Holdings(), full_reply(domain_credential(), version=4), never)
    gone = absorb(held, full_reply(version=5), never)
    assert gone.credentials == ()
    assert gone.credentials_version == 5


def test_older_version_than_seen_is_refused_even_after_it_was_withdrawn() -> None:
    held = absorb(Holdings(), full_reply(domain_credential(3)), never)
    held = absorb(held, full_reply(), never)
    assert absorb(held, full_reply(domain_credential(2)), never).credentials == ()
    assert absorb(held, full_reply(domain_credential(3)), never).credential("c1") is not None


def test_service_account_is_used_before_a_domain_admin() -> None:
    reply = full_reply(domain_credential(id="admin", kind="domain_admin"), domain_credential(id="svc"))
    held = absorb(Holdings(), reply, never)
    assert [entry.id for entry in held.for_domain("CORP.example")] == ["svc", "admin"]
    assert held.for_domain("other.example") == ()


def test_a_credential_that_was_stored_under_the_netbios_name_is_its_domains_and_opens_as_it_was_sealed() -> None:
    """Whether its domain is found before it comes or after."""
    places: list[str | None] = []

    def opener(_sealed: SealedSecret, credential: Credential) -> Secret:
        places.append(credential.domain_name)
        return Secret("opened")

    names = {"corp": "corp.example"}
    reply = full_reply(domain_credential(domain_name="CORP"), domain_credential(id="other", domain_name="BRANCH"))
    before = learn_domain_names(absorb(Holdings(), reply, opener), names)
    after = absorb(learn_domain_names(Holdings(), names), reply, opener)
    assert before == after
    (credential,) = after.for_domain("corp.example")
    assert (credential.domain_name, credential.netbios_name) == ("corp.example", "CORP")
    assert credential.open().reveal() == "opened"
    assert places == ["CORP"]


def test_host_and_site_credentials_say_where_they_are_valid() -> None:
    reply = evolve(
        REPLY,
        domain_credentials=(),
        site_credentials=(SiteCredential("s", 1, r".\admin", "local_admin", sealed()),),
        windows_targets=(WindowsTarget("srv1", r".\admin", True, "winrm", "h", 1, sealed_password=sealed()),),
    )
    held = absorb(Holdings(), reply, never)
    site, host = held.credential("s"), held.credential("h")
    assert site is not None
    assert site.host is None
    assert host is not None
    assert host.host == "srv1"
    assert not host.is_domain


def test_manual_targets_follow_the_same_rule() -> None:
    """Lesson 29: a check-in without news wipes nothing."""
    held = absorb(Holdings(), evolve(REPLY, manual_targets=(ManualTarget("srv1"),), targets_version=2), never)
    held = absorb(held, REPLY, never)
    assert held.manual_targets == (ManualTarget("srv1"),)
    assert held.targets_version == 2
    assert absorb(held, evolve(REPLY, manual_targets=(), targets_version=3), never).manual_targets == ()


def test_credentials_are_unknown_before_the_first_answer() -> None:
    assert Holdings().credentials is None
    assert absorb(Holdings(), REPLY, never).credentials is None
