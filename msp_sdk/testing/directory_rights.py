"""Who may read what of a stand-in directory: deleted objects, hidden units, confidential attributes. Pure.

Nobody may unless named, as in a domain where nothing was delegated.

Example:
    >>> DirectoryRights().reader("svc") == Reader()
    True
"""

from __future__ import annotations

from attrs import field, frozen, mutable

from msp_sdk.testing.directory_data import DirectoryEntry
from msp_sdk.testing.directory_filter import fold_dn

CONFIDENTIAL = frozenset(
    {
        "ms-mcs-admpwd",
        "mslaps-password",
        "mslaps-encryptedpassword",
        "mslaps-encryptedpasswordhistory",
        "mslaps-encrypteddsrmpassword",
    }
)


@frozen
class Reader:
    """What one account may do.

    Attributes:
        deleted: It reads the container of deleted objects.
        confidential: It reads passwords of LAPS.
        replicates: It may ask for changes without regard to rights on objects.
        hidden: Folded names of units whose objects it does not see.
    """

    deleted: bool = False
    confidential: bool = False
    replicates: bool = False
    hidden: tuple[str, ...] = ()

    def view(self, entry: DirectoryEntry) -> DirectoryEntry | None:
        """The entry as this account sees it; None when it does not."""
        if self.hidden:
            dn = fold_dn(entry.dn)
            if any(dn == unit or dn.endswith(f",{unit}") for unit in self.hidden):
                return None
        if self.confidential or CONFIDENTIAL.isdisjoint(entry.folded):
            return entry
        return DirectoryEntry(
            entry.dn, {name: values for name, values in entry.attributes.items() if name.lower() not in CONFIDENTIAL}
        )


EVERYTHING = Reader(deleted=True, confidential=True, replicates=True)


@mutable
class DirectoryRights:
    """Rights by user name, in lower case and without a domain; change them while the server runs.

    Attributes:
        reads_deleted: Who reads Deleted Objects.
        reads_confidential: Who reads confidential attributes.
        replicates: Who may ask for changes without ``LDAP_DIRSYNC_OBJECT_SECURITY``.
        reads_hidden: Who sees the hidden units all the same.
        hidden: Distinguished names of units that others do not see into.
    """

    reads_deleted: set[str] = field(factory=set)
    reads_confidential: set[str] = field(factory=set)
    replicates: set[str] = field(factory=set)
    reads_hidden: set[str] = field(factory=set)
    hidden: set[str] = field(factory=set)

    def reader(self, username: str) -> Reader:
        """What an account may do."""
        name = username.lower()
        return Reader(
            name in self.reads_deleted,
            name in self.reads_confidential,
            name in self.replicates,
            () if name in self.reads_hidden else tuple(sorted(fold_dn(unit) for unit in self.hidden)),
        )
