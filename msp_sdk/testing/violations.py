r"""What a program must never do to hosts and accounts, and did: a test that uses the stand-ins fails on any of it.

Example:
    >>> from msp_sdk.testing.accounts import Account, Accounts
    >>> account = Account("svc", "right", "CORP")
    >>> accounts = Accounts([account])
    >>> for password in ("wrong", "wrong"):
    ...     _ = accounts.check(account, password, "SRV1")
    >>> violations_of([], accounts)
    ('CORP\\svc: shown to SRV1 again after SRV1 had refused its password',)
"""

from __future__ import annotations

from collections.abc import Iterable

from msp_sdk.testing.accounts import LOCKED, WRONG_PASSWORD, Account, Accounts
from msp_sdk.testing.wsman import WsmanHost

_REFUSED = frozenset({f"{WRONG_PASSWORD:x}", f"{LOCKED:x}"})


def violations_of(hosts: Iterable[WsmanHost], accounts: Accounts) -> tuple[str, ...]:
    """All of it, as sentences for a person; empty when nothing happened.

    On hosts: an envelope in clear, an unknown script or command line, and whatever else a machine holds against its
    visitor. On accounts: a password that was shown anywhere after it had been refused, if that was refused too: who
    shows the right one has been told it. A test that does so on purpose clears the account's ``attempts``.
    """
    found = [f"{host.machine.name}: {violation}" for host in hosts for violation in host.machine.violations]
    for account in accounts.all:
        found += [f"{account.domain}\\{account.username}: {again}" for again in _again(account)]
    return tuple(found)


def _again(account: Account) -> list[str]:
    refused_at: str | None = None
    found = []
    for where, outcome in account.attempts:
        if outcome in _REFUSED and refused_at is not None:
            found.append(f"shown to {where} again after {refused_at} had refused its password")
        if outcome in _REFUSED:
            refused_at = where
        elif outcome == "ok":
            refused_at = None
    return found
