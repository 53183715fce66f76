"""What a directory's refusal of a bind means: the sub-codes of Windows ("data 52e") as reasons. Pure.

Source: the system error codes of Windows (``ERROR_LOGON_FAILURE`` and its neighbours).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from attrs import frozen

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
        "80090346": "channel-binding",
    }
)

# The server turned the bind away before it looked at the password.
PASSWORD_NOT_LOOKED_AT: frozenset[str] = frozenset({"channel-binding", "signing-required"})

_INVALID_CREDENTIALS = 49
_STRONGER_AUTH_REQUIRED = 8
_CONFIDENTIALITY_REQUIRED = 13
_BUSY = 51
_UNAVAILABLE = 52


@frozen
class BindRefusal:
    """Why a bind was refused.

    Attributes:
        code: A reason code; None when the answer says nothing that we understand.
        password_judged: True when the server looked at the password (or the account); False when it surely did not;
            None when nobody knows.
    """

    code: str | None
    password_judged: bool | None


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
    # Windows sends the bad-bindings status at the head of the text, not after "data".
    if "80090346" in message:
        return BindRefusal("channel-binding", password_judged=False)
    code = SUB_CODES.get(sub_code(message) or "", "wrong-password")
    return BindRefusal(code, password_judged=code not in PASSWORD_NOT_LOOKED_AT)
