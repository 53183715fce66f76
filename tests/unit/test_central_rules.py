"""Central's rules without a server: settings, addresses, limits, generations, vault."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from sanic.exceptions import RequestCancelled

from central_app.app import client_address
from central_app.bodies import check_plain
from central_app.checkin.store import Work, settle
from central_app.computers.scope import read_scope
from central_app.credentials.delivery import lease_is_free, next_state
from central_app.dashboard.directory_view import make_domains, make_swept, make_tried
from central_app.dashboard.view import make_figures, make_reasons
from central_app.problems import ProblemError, respond_to
from central_app.settings import check_bind, cookie_is_secure, make_settings
from central_app.state import RateLimiter, budget_name
from central_app.vault import Vault, load_key, make_key
from msp_sdk.errors import ConfigError, StateError
from msp_sdk.models.domain import (
    DiscoveredDomain,
    DiscoveryReport,
    DomainController,
    Evidence,
    Hint,
    NothingFound,
    SweptHost,
)
from msp_sdk.models.reason import REASONS
from msp_sdk.models.site import PROGRESS, DeploymentStatus, StatusDetails
from msp_sdk.secret import Secret

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"host": "192.0.2.1"}, "insecure-bind"),
        ({"host": "0.0.0.0", "behind_proxy": ["10.0.0.0/8"]}, "public-url-missing"),  # noqa: S104 (refused)
        ({"host": "0", "behind_proxy": ["10.0.0.0/8"]}, "public-url-missing"),
        ({"host": "::", "behind_proxy": ["10.0.0.0/8"]}, "public-url-missing"),
        ({"tls_cert": "c.pem"}, "bad-config"),
        ({"public_url": "http://central.example"}, "insecure-url"),
        ({"public_url": "nonsense"}, "insecure-url"),
        ({"public_url": "https://["}, "insecure-url"),
        ({"public_url": "https://c.example:99999"}, "insecure-url"),
        ({"public_url": "https://user:pw@c.example"}, "insecure-url"),
        ({"public_url": "https://c.example/below"}, "insecure-url"),
        ({"port": 65536}, "bad-config"),
        ({"port": -1}, "bad-config"),
    ],
)
def test_a_bind_that_is_not_safe_or_cannot_be_found_is_refused(arguments, code):
    with pytest.raises(ConfigError) as caught:
        check_bind(make_settings({}, **arguments))
    assert caught.value.code == code
    assert caught.value.remedy


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"host": "::1"},
        {"host": "localhost"},
        {"host": "0.0.0.0", "behind_proxy": ["10.0.0.0/8"], "public_url": "https://c.example"},  # noqa: S104 (behind a proxy)
        {"host": "192.0.2.1", "tls_cert": "c", "tls_key": "k"},
    ],
)
def test_a_safe_bind_is_let_pass(arguments):
    check_bind(make_settings({}, **arguments))


def test_postgresql_comes_later_and_nonsense_never():
    for url in ("postgresql://h/db", "mysql://h/db", "sqlite://", "sqlite:///:memory:", "central.db"):
        with pytest.raises(ConfigError) as caught:
            make_settings({}, database=url)
        assert caught.value.code == "database-unsupported"


def test_the_environment_names_database_and_key_and_arguments_win(tmp_path):
    environ = {"MSP_CENTRAL_DATABASE": "sqlite:////var/a.db", "MSP_CENTRAL_KEY_FILE": "/run/key"}
    assert make_settings(environ).database == "sqlite:////var/a.db"
    assert make_settings(environ, database="sqlite:///b.db").database == "sqlite:///b.db"
    assert str(make_settings(environ).vault_key_path) == "/run/key"
    assert str(make_settings({}, database="sqlite:////x/b.db").vault_key_path) == "/x/b.db.key"


def test_the_endpoint_is_the_public_url_else_what_was_bound():
    assert make_settings({}, public_url="https://c.example/").endpoint(99) == "https://c.example"
    assert make_settings({}, host="::1").endpoint(99) == "http://[::1]:99"
    assert cookie_is_secure("https://c.example")
    assert not cookie_is_secure("http://127.0.0.1:8080")


def test_addresses_come_from_a_proxy_only_where_it_is_trusted():
    networks = (ipaddress.ip_network("10.0.0.0/8"),)
    assert client_address("9.9.9.9", "1.2.3.4", ()) == "9.9.9.9"
    assert client_address("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", networks) == "1.2.3.4"
    assert client_address("10.0.0.1", "garbage", networks) == "10.0.0.1"
    assert client_address("::ffff:10.0.0.1", "", networks) == "::ffff:10.0.0.1"
    with pytest.raises(ProblemError) as caught:
        client_address("9.9.9.9", "10.0.0.1", networks)
    assert caught.value.code == "untrusted-peer"


def test_who_has_one_ipv6_address_has_one_budget_for_all_of_its_network():
    assert budget_name("10.0.0.1") == "10.0.0.1"
    assert budget_name("2001:db8::1") == budget_name("2001:db8::ffff:1") != budget_name("2001:db8:0:1::1")
    assert budget_name("::ffff:10.0.0.1") == "10.0.0.1"
    assert budget_name("fe80::1%eth0") == budget_name("fe80::2%eth0")
    assert budget_name("nonsense") == "nonsense"


def test_a_limit_counts_each_name_alone_and_forgets_after_a_minute():
    clock = [0.0]
    limiter = RateLimiter(2, lambda: clock[0])
    for name in ("a", "a", "b"):
        limiter.take(name)
    with pytest.raises(ProblemError) as caught:
        limiter.take("a")
    assert caught.value.retry_after_s == 60
    clock[0] = 60.0
    limiter.take("a")


def test_a_client_that_counts_is_told_while_it_owes():
    assert settle(Work(3, 1, 0, None), 2, NOW, 60, counts=True) == (Work(3, 2, 0, None), True)
    assert settle(Work(3, 1, 0, None), 3, NOW, 60, counts=True) == (Work(3, 3, 0, None), False)
    assert settle(Work(3, 2, 0, None), 1, NOW, 60, counts=True)[0].done == 2
    assert settle(Work(3, 1, 0, None), 99, NOW, 60, counts=True)[0].done == 3


def test_a_newer_wish_is_told_at_once_also_within_the_lease():
    told, triggered = settle(Work(1, 0, 0, None), None, NOW, 60, counts=False)
    assert triggered
    later = NOW + timedelta(seconds=60)
    assert not settle(told, None, later, 60, counts=False)[1]
    assert settle(Work(2, 0, told.sent, told.sent_at), None, later, 60, counts=False)[1]


def test_refused_is_final_for_a_version():
    assert next_state("unproven", "proven") == "proven"
    assert next_state("proven", "refused") == "refused"
    assert next_state("refused", "proven") is None
    assert next_state("proven", "unproven") is None


def test_a_lease_is_kept_while_its_holder_lives():
    lease = {"version": 1, "appliance_state": "active", "leased_at": NOW, "last_seen_at": NOW + timedelta(minutes=5)}
    assert lease_is_free(None, 1, NOW, 60)
    assert not lease_is_free(lease, 1, NOW + timedelta(minutes=14), 60)
    assert lease_is_free(lease, 1, NOW + timedelta(minutes=16), 60)
    assert lease_is_free(lease, 2, NOW, 60)
    assert lease_is_free({**lease, "appliance_state": "revoked"}, 1, NOW, 60)


def test_a_stored_secret_opens_for_its_own_row_and_vault_only():
    vault = Vault(b"a" * 32)
    envelope = vault.encrypt(Secret("hunter2"), "row-1")
    assert vault.decrypt(envelope, "row-1").reveal() == "hunter2"
    assert b"hunter2" not in envelope.ciphertext
    for other, row in ((vault, "row-2"), (Vault(b"b" * 32), "row-1")):
        with pytest.raises(StateError):
            other.decrypt(envelope, row)
    assert vault.hash_token("ak", "x") != vault.hash_token("pk", "x")
    assert vault.hash_token("ak", "x") != Vault(b"b" * 32).hash_token("ak", "x")


def test_the_vault_key_is_made_once_and_read_by_nobody_else(tmp_path):
    path = tmp_path / "deep" / "key"
    key = make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert make_key(path) == load_key(path) == key
    path.chmod(0o644)
    with pytest.raises(ConfigError):
        load_key(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(ConfigError):
        load_key(path)


def test_what_no_database_can_hold_is_refused_with_its_path():
    for value, path in (
        ({"a": ["x", "\ud800"]}, "a[1]"),
        ({"a": {"b": "\x00"}}, "a.b"),
        ({"a": 2**63}, "a"),
        ({"a": float("nan")}, "a"),
    ):
        with pytest.raises(ProblemError) as caught:
            check_plain(value)
        assert caught.value.errors[0][0] == path
    check_plain({"a": [2**63 - 1, "ü", None, True, 1.5]})


@pytest.mark.parametrize(
    ("phase", "count", "shown"),
    [
        ("discovering", 0, "not yet counted"),
        ("awaiting_credentials", 0, "not yet counted"),
        ("enumerating", 3, "3"),
        ("deploying", 0, "0"),
    ],
)
def test_the_page_shows_no_zero_where_nobody_has_counted(phase, count, shown):
    # Lesson 24: an error, or nothing yet, is not "0 servers".
    status = DeploymentStatus(phase, PROGRESS[phase], StatusDetails(servers_found=count, workstations_found=count))
    figures = {figure.title: figure.value for figure in make_figures(status)}
    assert (figures["Servers"], figures["Workstations"]) == (shown, shown)


def discovery(name: str, confidence: int, **more: object) -> DiscoveryReport:
    domain = DiscoveredDomain(name, (f"dc1.{name}", f"dc2.{name}"), NOW, confidence=confidence, **more)  # type: ignore[arg-type]
    return DiscoveryReport("d", domain)


def test_the_page_lists_each_domain_once_the_surest_first_with_what_is_known_of_its_controllers():
    known = DomainController(
        "DC1.corp.example", ad_site="HQ", doors=(88, 389, 3268, 9999), is_global_catalog=True, is_read_only=False
    )
    newest = discovery("corp.example", 60, netbios_name="CORP", forest="example", controllers=(known,))
    lines = make_domains([newest, discovery("Corp.Example", 90), discovery("branch.example", 95)])
    assert [(line.name, line.confidence) for line in lines] == [("branch.example", "95 %"), ("corp.example", "60 %")]
    assert (lines[1].netbios_name, lines[1].forest) == ("CORP", "example")
    assert [(entry.name, entry.ad_site, entry.offers) for entry in lines[1].controllers] == [
        ("DC1.corp.example", "HQ", "global catalog, Kerberos, LDAP, 9999"),
        ("dc2.corp.example", "", ""),
    ]


def test_the_page_tells_hosts_of_no_directory_from_those_that_nobody_has_compared_yet():
    def report(reason):
        return DiscoveryReport("d", swept=(SweptHost("10.0.0.8", (5985,), "kiosk.lan", reason),))

    newest_first = [report("not-in-a-directory"), report("directory-unread")]
    assert make_swept(newest_first) == ("kiosk.lan (10.0.0.8)",)
    assert make_swept(newest_first, "directory-unread") == ()


def test_the_page_says_what_was_tried_where_nothing_was_found():
    nothing = NothingFound((Evidence("srv", "10.0.0.1", "no such name"),), (Hint("lan.example", "dhcp"),))
    assert make_tried([DiscoveryReport("d", nothing_found=nothing)] * 2) == (
        "lan.example (from dhcp)",
        "srv, 10.0.0.1: no such name",
    )


def test_the_page_counts_reasons_in_words_and_shows_an_unknown_one_as_it_is():
    shown = [(entry.title, entry.value) for entry in make_reasons({"stale": 2, "of-tomorrow": 5})]
    assert shown == [("of-tomorrow", "5"), (REASONS["stale"].title, "2")]


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        (None, True),
        ({}, True),
        ({"ous": [], "moon": []}, True),
        ({"ous": ["clinic"]}, True),
        ({"ous": ["Clinic 2"]}, False),
        ({"ous": ["Clinic"], "excluded_ous": ["Clinic/Imaging"]}, False),
        ({"names": ["ct*"], "roles": ["workstation"]}, True),
        ({"roles": ["server"]}, False),
        ({"groups": ["Imaging"]}, False),
        ({"moon": "full"}, False),
        ({"ous": [{}]}, False),
        ("all", False),
    ],
)
def test_a_report_speaks_only_for_what_its_scope_is_known_to_hold(scope, covered):
    assert read_scope(scope).covers(hostname="CT1", ou_path="Clinic/Imaging", role="workstation") is covered


def test_a_request_that_its_sender_gave_up_is_no_failure_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    answer = respond_to(RequestCancelled(), "r1")
    assert answer.status == 503
    assert caplog.records == []
