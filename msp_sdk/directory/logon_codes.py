"""What a refused bind means: the sub-codes of Windows ("data 52e"), as reasons. Pure.

Source: the system error codes of Windows (``ERROR_LOGON_FAILURE`` and its neighbours).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from msp_sdk.network.kdc_codes import BindRefusal, judged

_SUB_CODE = re.compile(r"\bdata\s+([0-9a-f]+)", re.IGNORECASE)

SUB_CODES: Mapping[str, str] = MappingProxyType(
    {
        "52e": "wrong-password",
        "525": "no-such-user",
        "52f": "account-restriction",
        "530": "logon-hours",
        "531": "logon-workstation",
        "532": "password-expired",
        "533": "account-disabled",
        "569": "logon-type",
        "701": "account-expired",
        "773": "must-change-password",
        "775": "account-locked",
    }
)

_INVALID_CREDENTIALS = 49
_STRONGER_AUTH_REQUIRED = 8
_CONFIDENTIALITY_REQUIRED = 13
_BUSY = 51
_UNAVAILABLE = 52
# Statuses that Windows puts at the head of the text, before it comes to any "data".
_HEADS: Mapping[str, str] = MappingProxyType({"80090346": "channel-binding", "80090324": "clock-skew"})
# ERROR_NO_LOGON_SERVERS: a controller that has no password of its own to compare with reached none that has one.
_NO_LOGON_SERVERS = "51f"


def sub_code(message: str) -> str | None:
    """The hex digits after ``data`` in Windows' diagnostic text, lower case, or None."""
    found = _SUB_CODE.search(message)
    return found.group(1).lower() if found else None


def judge_refusal(result_code: int, message: str) -> BindRefusal:
    """Read a refused bind.

    Args:
        result_code: The LDAP result code, not 0.
        message: The diagnostic text, as sent.
    """
    if result_code in (_STRONGER_AUTH_REQUIRED, _CONFIDENTIALITY_REQUIRED):
        return BindRefusal("signing-required", password_judged=False)
    if result_code in (_BUSY, _UNAVAILABLE):
        return BindRefusal(None, password_judged=False)
    if result_code != _INVALID_CREDENTIALS:
        return BindRefusal(None, password_judged=None)
    return _judge_invalid_credentials(message)


def _judge_invalid_credentials(message: str) -> BindRefusal:
    for head, code in _HEADS.items():
        if head in message:
            return BindRefusal(code, password_judged=False)
    told = sub_code(message)
    if told == _NO_LOGON_SERVERS:
        return BindRefusal(None, password_judged=False)
    if told is not None and told not in SUB_CODES:
        # Held against the password, so that it is not tried again; but nobody has called it wrong.
        return BindRefusal("logon-refused", password_judged=True)
    return judged(SUB_CODES[told] if told else "wrong-password")
