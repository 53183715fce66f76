"""Which records speak of one machine: objectGUID, then SID, then names and addresses, all case-folded.

Two computers with different objectGUIDs are never one, whatever name or address they share: a stale DNS record
gives two machines one address. A name or address that fits several computers points at none of them.

Example:
    >>> parse_reference("SRV1.Corp.Example.")
    Reference(kind='fqdn', text='srv1.corp.example')
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal

from attrs import frozen

from msp_sdk.models.computer import Computer

ReferenceKind = Literal["fqdn", "name", "address"]


@frozen(order=True)
class Reference:
    """A host as somebody wrote it: a full name, a short name or an address, folded."""

    kind: ReferenceKind
    text: str

    @property
    def label(self) -> str:
        """The first label of a name; an address as it is."""
        return self.text if self.kind == "address" else self.text.partition(".")[0]


def parse_reference(text: str) -> Reference:
    """Read a host as a person writes it: any case, a final dot, an address in brackets."""
    folded = text.strip().rstrip(".").casefold()
    address = parse_address(folded.removeprefix("[").removesuffix("]"))
    if address is not None:
        return Reference("address", address)
    return Reference("fqdn" if "." in folded else "name", folded)


def parse_address(text: str) -> str | None:
    """An IP address in its one spelling, or None when ``text`` is none. An IPv4 address inside IPv6 is the IPv4 one."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def computer_key(computer: Computer) -> str:
    """What names a computer of the directory: its objectGUID, else its SID, else its full name."""
    if computer.object_guid:
        return f"guid:{computer.object_guid.casefold()}"
    if computer.sid:
        return f"sid:{computer.sid.casefold()}"
    return f"name:{full_name(computer) or computer.hostname.casefold()}"


def full_name(computer: Computer) -> str | None:
    """The computer's full name, folded: as the directory has it, else made of its name and domain."""
    if computer.fqdn:
        return computer.fqdn.rstrip(".").casefold()
    if computer.domain_name:
        return f"{computer.hostname}.{computer.domain_name}".rstrip(".").casefold()
    return None


def distinct(computers: Iterable[Computer]) -> dict[str, Computer]:
    """Computers by key, each once. Of several readings of one the same is taken whatever their order."""
    groups: defaultdict[str, list[Computer]] = defaultdict(list)
    for computer in computers:
        groups[computer_key(computer)].append(computer)
    by_sid: dict[str, str] = {}
    for key in sorted(key for key in groups if key.startswith("guid:")):
        for computer in groups[key]:
            by_sid.setdefault((computer.sid or "").casefold(), key)
    for key in sorted(key for key in groups if key.startswith("sid:")):
        # A reading without its objectGUID (over WinRM, say) belongs to the one that has it.
        owner = by_sid.get(key.removeprefix("sid:"))
        if owner is not None:
            groups[owner] += groups.pop(key)
    return {key: max(group, key=_worth) for key, group in sorted(groups.items())}


def _worth(computer: Computer) -> tuple[object, ...]:
    seen = computer.last_logon_at.timestamp() if computer.last_logon_at else 0.0
    return (bool(computer.object_guid), computer.reachable is not None, seen, repr(computer))


class DirectoryIndex:
    """Finds the computers that a reference may mean.

    Args:
        computers: By key, as :func:`distinct` gives them.
    """

    def __init__(self, computers: Mapping[str, Computer]) -> None:
        self._fqdns: defaultdict[str, set[str]] = defaultdict(set)
        self._labels: defaultdict[str, set[str]] = defaultdict(set)
        self._domainless: defaultdict[str, set[str]] = defaultdict(set)
        self._addresses: defaultdict[str, set[str]] = defaultdict(set)
        for key, computer in computers.items():
            fqdn = full_name(computer)
            labels = {
                parse_reference(computer.hostname).label,
                computer.sam_account_name.removesuffix("$").casefold(),
                (fqdn or "").partition(".")[0],
            } - {""}
            if "." in computer.hostname and parse_address(computer.hostname) is None:
                self._fqdns[computer.hostname.rstrip(".").casefold()].add(key)
            if fqdn:
                self._fqdns[fqdn].add(key)
            for label in labels:
                self._labels[label].add(key)
                if not fqdn:
                    self._domainless[label].add(key)
            for address in computer.ip_addresses:
                self._addresses[parse_address(address) or address].add(key)

    def candidates(self, reference: Reference) -> frozenset[str]:
        """Keys of the computers that ``reference`` fits; one means that it is that computer."""
        if reference.kind == "address":
            return frozenset(self._addresses.get(reference.text, ()))
        if reference.kind == "name":
            return frozenset(self._labels.get(reference.text, ()))
        if reference.text in self._fqdns:
            return frozenset(self._fqdns[reference.text])
        # A computer whose domain nobody knows may still be the one that is meant by a full name.
        return frozenset(self._domainless.get(reference.label, ()))


def group_references(references: Iterable[Reference]) -> dict[Reference, str]:
    """Group references that no computer claims: a short name joins the one full name that begins with it.

    Returns:
        A group's key per reference.
    """
    distinct_references = sorted(set(references))
    fqdns: defaultdict[str, list[Reference]] = defaultdict(list)
    for reference in distinct_references:
        if reference.kind == "fqdn":
            fqdns[reference.label].append(reference)
    groups: dict[Reference, str] = {}
    for reference in distinct_references:
        owners = fqdns.get(reference.text, []) if reference.kind == "name" else []
        owner = owners[0] if len(owners) == 1 else reference
        groups[reference] = f"{owner.kind}:{owner.text}"
    return groups
