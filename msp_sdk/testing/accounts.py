"""The accounts of an estate: bad passwords are counted over LDAP and WS-Man together, and lock as Windows does."""

from __future__ import annotations

from attrs import field, mutable

LOCKOUT_THRESHOLD = 3

# Sub-codes of a refused logon, as Windows says them ("data 52e").
WRONG_PASSWORD = 0x52E
NO_SUCH_USER = 0x525
DISABLED = 0x533
EXPIRED_PASSWORD = 0x532
LOCKED = 0x775


@mutable
class Account:
    """One account.

    Attributes:
        domain: NetBIOS name of its domain, or of the host for a local account.
        dns_domain: The domain's DNS name; None for a local account.
        administers: Host names (short, folded) where it is a local administrator; ``*`` means everywhere.
        refusal: A sub-code with which even the right password is refused, such as :data:`EXPIRED_PASSWORD`.
        attempts: Every logon that was tried, as (where, outcome); for tests and audits.
    """

    username: str
    password: str = field(repr=False)
    domain: str
    dns_domain: str | None = None
    administers: frozenset[str] = frozenset()
    refusal: int | None = None
    bad_password_count: int = 0
    attempts: list[tuple[str, str]] = field(factory=list)

    @property
    def locked(self) -> bool:
        """True after :data:`LOCKOUT_THRESHOLD` wrong passwords in a row."""
        return self.bad_password_count >= LOCKOUT_THRESHOLD

    @property
    def upn(self) -> str:
        """``user@domain``."""
        return f"{self.username}@{self.dns_domain or self.domain}"


class Accounts:
    """All accounts of an estate, domain and local ones."""

    def __init__(self, accounts: list[Account]) -> None:
        self.all = accounts

    def find(self, name: str, domain: str | None = None, *, host: str | None = None) -> Account | None:
        r"""Find an account by UPN, ``DOMAIN\user`` or (domain, user).

        Args:
            name: User name in any of the usual forms, any case.
            domain: As NTLM says it; empty, ``.`` or the host's name mean a local account of ``host``.
            host: Short name of the host that is asked; None for a controller.
        """
        if "\\" in name:
            domain, name = name.split("\\", 1)
        elif "@" in name:
            name, domain = name.rsplit("@", 1)
        folded = (domain or "").casefold()
        if host is not None and folded in ("", ".", host.casefold()):
            folded = host.casefold()
        for account in self.all:
            names = {account.domain.casefold(), (account.dns_domain or account.domain).casefold()}
            if account.username.casefold() == name.casefold() and folded in names:
                return account
        return None

    def check(self, account: Account | None, password: str, where: str) -> int | None:
        """Check and count a password that came in clear (simple bind). None when it is right, else a sub-code."""
        if account is None:
            return NO_SUCH_USER
        return self.judge(account, right=password == account.password, where=where)

    def judge(self, account: Account, *, right: bool, where: str) -> int | None:
        """Count one logon whose password was ``right`` or not (NTLM proves it elsewhere). None when it is let in."""
        code: int | None = None
        if account.locked:
            code = LOCKED
        elif not right:
            account.bad_password_count += 1
            code = WRONG_PASSWORD
        elif account.refusal is not None:
            code = account.refusal
        else:
            account.bad_password_count = 0
        account.attempts.append((where, "ok" if code is None else f"{code:x}"))
        return code
