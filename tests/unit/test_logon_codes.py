"""What a refused logon means: sub-codes of a directory and errors of a KDC."""

from __future__ import annotations

import pytest

from msp_sdk.directory.logon_codes import SUB_CODES, judge_refusal
from msp_sdk.models.reason import ACCOUNT_REASONS, reason
from msp_sdk.network.kdc_codes import KDC_JUDGED, KDC_NOT_JUDGED, PASSWORD_WAS_RIGHT, BindRefusal, judge_kdc

INVALID_CREDENTIALS = 49


def text_of(sub_code):
    """As Windows writes it."""
    return f"80090308: LdapErr: DSID-0C090447, comment: AcceptSecurityContext error, data {sub_code}, v3839"


@pytest.mark.parametrize(
    ("sub_code", "code", "right"),
    [
        ("52e", "wrong-password", False),
        ("525", "no-such-user", False),
        ("52f", "account-restriction", None),
        ("530", "logon-hours", True),
        ("531", "logon-workstation", True),
        ("532", "password-expired", True),
        ("533", "account-disabled", True),
        ("569", "logon-type", None),
        ("701", "account-expired", True),
        ("773", "must-change-password", True),
        ("775", "account-locked", None),
    ],
)
def test_a_sub_code_is_its_own_reason_and_says_whether_the_password_was_right(sub_code, code, right):
    # lesson 28: "invalid credentials" is rarely that.
    refusal = judge_refusal(INVALID_CREDENTIALS, text_of(sub_code))
    assert refusal == BindRefusal(code, password_judged=True, password_right=right, is_no_strike=right is True)


def test_channel_binding_and_signing_are_not_taken_for_a_wrong_password():
    bindings = "80090346: LdapErr: DSID-0C0905BD, comment: AcceptSecurityContext error, data 80090346, v4563"
    assert judge_refusal(INVALID_CREDENTIALS, bindings) == BindRefusal("channel-binding", password_judged=False)
    stronger = "00002028: LdapErr: DSID-0C09023C, comment: The server requires binds to turn on integrity checking"
    assert judge_refusal(8, stronger) == BindRefusal("signing-required", password_judged=False)
    assert judge_refusal(13, "") == BindRefusal("signing-required", password_judged=False)


def test_a_refusal_that_says_nothing_is_held_against_the_password():
    assert judge_refusal(INVALID_CREDENTIALS, "") == BindRefusal("wrong-password", True, False)
    # A sub-code that nobody knows: not tried again, and not called wrong either.
    for sub_code in ("9999", "57", "78f"):
        assert judge_refusal(INVALID_CREDENTIALS, text_of(sub_code)) == BindRefusal("logon-refused", True, None)


def test_a_controller_that_reached_nobody_to_compare_with_and_a_wrong_clock_judged_nothing():
    assert judge_refusal(INVALID_CREDENTIALS, text_of("51f")) == BindRefusal(None, password_judged=False)
    skew = "80090324: LdapErr: DSID-0C0903C5, comment: AcceptSecurityContext error, data 0, v2580"
    assert judge_refusal(INVALID_CREDENTIALS, skew) == BindRefusal("clock-skew", password_judged=False)


def test_a_server_that_is_busy_judged_nothing_and_any_other_result_leaves_it_open():
    assert judge_refusal(51, "").password_judged is False
    assert judge_refusal(1, "") == BindRefusal(None, password_judged=None)


@pytest.mark.parametrize(
    ("number", "code", "judged", "right"),
    [
        (6, "no-such-user", True, False),
        (7, "no-service-principal", False, None),
        (12, "kdc-policy", True, None),
        (14, "no-common-cipher", False, None),
        (18, "account-revoked", True, None),
        (23, "password-expired", True, True),
        (24, "wrong-password", True, False),
        (31, "wrong-password", True, False),
        (37, "clock-skew", False, None),
        (68, "other-domain-account", False, None),
    ],
)
def test_an_error_of_the_kdc_is_its_own_reason(number, code, judged, right):
    assert judge_kdc(number, key_used=True) == BindRefusal(code, judged, right, is_no_strike=right is True)


def test_an_expired_password_is_called_right_only_where_it_was_looked_at():
    assert judge_kdc(23, key_used=True).password_right is True
    assert judge_kdc(23, key_used=False) == BindRefusal("account-revoked", password_judged=True, is_no_strike=True)


@pytest.mark.parametrize("number", [12, 18, 21])
def test_an_account_that_is_kept_out_before_its_password_was_used_had_no_strike(number):
    assert judge_kdc(number, key_used=False).is_no_strike
    # With the password in it, it may have been counted.
    assert not judge_kdc(number, key_used=True).is_no_strike


def test_a_user_that_is_not_there_is_not_asked_for_again():
    assert not judge_kdc(6, key_used=False).is_no_strike


def test_only_a_kdc_that_answered_nothing_is_out_of_reach():
    assert judge_kdc(None, key_used=False, answered=False).code == "kdc-unreachable"
    # A smart card is demanded, no cipher is allowed here: NTLM must not go around that.
    assert judge_kdc(None, key_used=False).code == "kerberos-refused"


@pytest.mark.parametrize("number", [None, 60, 127])
def test_what_nobody_understands_counts_as_unknown_once_the_password_was_used(number):
    assert judge_kdc(number, key_used=True) == BindRefusal(None, password_judged=None)
    assert judge_kdc(number, key_used=False).password_judged is False


def test_every_reason_is_in_the_table_and_no_error_is_judged_both_ways():
    codes = {*SUB_CODES.values(), *KDC_JUDGED.values(), *KDC_NOT_JUDGED.values(), "kerberos-refused"}
    assert all(reason(code).remedy for code in codes)
    assert KDC_JUDGED.keys().isdisjoint(KDC_NOT_JUDGED)


def test_a_right_password_is_told_so_to_the_person():
    assert all(reason(code).title.startswith("The password is right, but") for code in PASSWORD_WAS_RIGHT)
    assert PASSWORD_WAS_RIGHT < ACCOUNT_REASONS
