"""Which doors a controller has, and what its refusals mean."""

from __future__ import annotations

import pytest

from msp_sdk.directory.doors import Door, doors
from msp_sdk.directory.logon_codes import SUB_CODES, judge_refusal
from msp_sdk.models.domain import DomainController
from msp_sdk.models.reason import REASONS

FQDN = "dc1.northvalley.test"


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (49, "80090346: LdapErr: DSID-0C090597, data 80090346, v4563", ("channel-binding", False)),
        (49, "80090308: LdapErr: comment, data 52E, v4563", ("wrong-password", True)),
        (49, "Invalid credentials", ("wrong-password", True)),
        (51, "busy", (None, False)),
        (53, "no idea", (None, None)),
    ],
)
def test_refusals_say_whether_the_password_was_looked_at(code, message, expected):
    refusal = judge_refusal(code, message)
    assert (refusal.code, refusal.password_judged) == expected


def test_every_sub_code_is_a_reason():
    assert set(SUB_CODES.values()) <= set(REASONS)


def test_doors_are_start_tls_then_ldaps_for_each_address():
    controller = DomainController(FQDN, 3890, ("127.0.0.1", "::1"))
    assert doors(controller, first="starttls", ldaps_port=6360) == (
        Door("starttls", "127.0.0.1", 3890),
        Door("ldaps", "127.0.0.1", 6360),
        Door("starttls", "::1", 3890),
        Door("ldaps", "::1", 6360),
    )
    assert doors(DomainController(FQDN, 3269), first="starttls") == (Door("ldaps", FQDN, 3269),)
