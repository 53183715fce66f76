"""How sure we are of a domain: rules on evidence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from msp_sdk.directory.root_dse import RootDse
from msp_sdk.discovery.controllers import describe_skew
from msp_sdk.discovery.evidence import confidence, is_believed, rank
from msp_sdk.models.domain import Domain, Evidence


def evidence(*kinds: str) -> list[Evidence]:
    return [Evidence(kind, "somebody", "") for kind in kinds]


@pytest.mark.parametrize(
    "kinds",
    [
        (),
        ("hint",),
        ("srv-dc", "srv-ldap", "srv-kerberos", "srv-gc", "hint", "dns-server"),
        ("rootdse", "certificate"),
        ("cldap", "certificate"),
        ("srv-dc", "rootdse-disagrees", "cldap-disagrees"),
        ("srv-kerberos", "srv-gc", "rootdse"),
        ("entra-hint", "hint"),
        ("asked-as-controller", "doors", "certificate"),
    ],
)
def test_half_a_proof_is_never_believed_and_never_sure(kinds):
    # Lesson 20.
    assert not is_believed(evidence(*kinds))
    assert confidence(evidence(*kinds)) <= 30


@pytest.mark.parametrize(
    ("kinds", "sure"),
    [
        (
            ("srv-dc", "srv-ldap", "srv-kerberos", "srv-gc", "cldap", "rootdse", "certificate", "dns-server", "hint"),
            100,
        ),
        (("srv-dc", "srv-ldap", "cldap", "rootdse"), 95),
        (("srv-dc", "srv-ldap", "rootdse"), 65),
        (("srv-dc", "cldap"), 55),
        (("srv-ldap", "rootdse"), 40),
        (("cldap", "rootdse"), 60),
        (("srv-dc", "rootdse", "rootdse-disagrees"), 35),
        (("srv-dc", "srv-dc", "rootdse", "rootdse", "rootdse"), 55),
    ],
)
def test_each_kind_of_evidence_counts_once_and_adds_up(kinds, sure):
    assert is_believed(evidence(*kinds))
    assert confidence(evidence(*kinds)) == sure


def test_equal_domains_stay_in_the_order_in_which_they_were_found():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    domains = [Domain(name, (), now, confidence=sure) for name, sure in (("a", 60), ("b", 90), ("c", 90))]
    assert [domain.name for domain in rank(domains)] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, None),
        (-119, None),
        (301, "its clock is 301 s ahead of ours"),
        (-7200, "its clock is 7200 s behind ours"),
    ],
)
def test_a_clock_far_from_ours_is_told_before_kerberos_refuses_it(seconds, said):
    # Lesson 28.
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert describe_skew(RootDse("n.test", None, current_time=now + timedelta(seconds=seconds)), now) == said
    assert describe_skew(RootDse("n.test", None), now) is None
