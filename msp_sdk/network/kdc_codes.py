"""What a KDC's errors say of an account and its password, as reasons; and how any refusal of a logon is told. Pure.

Source: RFC 4120, 7.5.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attrs import frozen

from msp_sdk.models.reason import ACCOUNT_REASONS

# Windows says these only after it found the password to be right.
PASSWORD_WAS_RIGHT: frozenset[str] = frozenset(
    {
        "logon-hours",
        "logon-workstation",
        "password-expired",
        "account-disabled",
        "account-expired",
        "must-change-password",
    }
)
PASSWORD_WAS_WRONG: frozenset[str] = frozenset({"wrong-password", "no-such-user"})

# A KDC's errors that judge the account or its password: no other door sees it then.
KDC_JUDGED: Mapping[int, str] = MappingProxyType(
    {
        1: "account-revoked",  # NAME_EXP
        6: "no-such-user",  # C_PRINCIPAL_UNKNOWN
        8: "no-such-user",  # PRINCIPAL_NOT_UNIQUE
        12: "kdc-policy",  # POLICY
        18: "account-revoked",  # CLIENT_REVOKED
        21: "account-revoked",  # CLIENT_NOTYET
        23: "password-expired",  # KEY_EXPIRED
        24: "wrong-password",  # PREAUTH_FAILED
        31: "wrong-password",  # BAD_INTEGRITY: its answer does not open with our key
    }
)
# Those that say nothing of the password: another door may do.
KDC_NOT_JUDGED: Mapping[int, str] = MappingProxyType(
    {
        7: "no-service-principal",  # S_PRINCIPAL_UNKNOWN
        9: "no-common-cipher",  # NULL_KEY
        14: "no-common-cipher",  # ETYPE_NOSUPP
        15: "no-common-cipher",  # SUMTYPE_NOSUPP
        29: "kdc-unreachable",  # SVC_UNAVAILABLE
        32: "clock-skew",  # TKT_EXPIRED
        33: "clock-skew",  # TKT_NYV
        37: "clock-skew",  # SKEW
        68: "other-domain-account",  # WRONG_REALM
    }
)


@frozen
class BindRefusal:
    """Why a bind was refused.

    Attributes:
        code: A reason code; None when the answer says nothing that we understand.
        password_judged: True when the server looked at the password (or the account); False when it surely did not;
            None when nobody knows.
        password_right: True when the password was found to be right, and something else is in the way; False when it
            was found to be wrong; None when nobody knows.
        is_no_strike: It was judged, and cannot have counted as a wrong password: that was found to be right, or was
            not used. What is in the way lies with the account alone.
    """

    code: str | None
    password_judged: bool | None
    password_right: bool | None = None
    is_no_strike: bool = False


def judge_kdc(number: int | None, *, key_used: bool, answered: bool = True) -> BindRefusal:
    """Read a KDC's error.

    Args:
        number: As RFC 4120 has it; None when no answer came that we understand.
        key_used: The request that it answers was made with the password.
        answered: Something came from the KDC.
    """
    if number is not None and number in KDC_JUDGED:
        code = KDC_JUDGED[number]
        if code == "password-expired" and not key_used:
            # It did not look at the password, so nothing is said of it.
            code = "account-revoked"
        if not key_used:
            # What it says of the account alone; nothing of the password was used.
            return BindRefusal(code, password_judged=True, is_no_strike=code in ACCOUNT_REASONS)
        return judged(code)
    if number is not None and number in KDC_NOT_JUDGED:
        return BindRefusal(KDC_NOT_JUDGED[number], password_judged=False)
    if key_used:
        return BindRefusal(None, password_judged=None)
    return BindRefusal("kerberos-refused" if answered else "kdc-unreachable", password_judged=False)


def judged(code: str) -> BindRefusal:
    """A refusal by somebody who looked at the password."""
    if code in PASSWORD_WAS_RIGHT:
        return BindRefusal(code, password_judged=True, password_right=True, is_no_strike=True)
    return BindRefusal(code, password_judged=True, password_right=False if code in PASSWORD_WAS_WRONG else None)
