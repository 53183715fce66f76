"""Merge every source of hosts into one list of targets; a pure function of all of them, run on each change.

* Manual wins field by field, an exclusion is absolute, and a person's word makes a target of what was left out;
  of a disabled computer only where it has an account of its own to log on with.
* Nothing appears without a source, nothing vanishes without a reason: each computer of the directory is a target
  or is skipped with its reason. One that is out of reach stays a target.
* The result does not depend on the order of the sources, and merging again changes nothing.

Example:
    >>> from msp_sdk.models.target import ManualTarget
    >>> result = TargetMerger().merge(manual=[ManualTarget("SRV1"), ManualTarget("srv1.corp.example")])
    >>> [target.hostname for target in result.targets]
    ['srv1.corp.example']
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from attrs import field, mutable

from msp_sdk.models.checkin import SitePolicy
from msp_sdk.models.computer import Computer, ComputerRole, Enumeration
from msp_sdk.models.credential import Credential
from msp_sdk.models.target import ManualTarget, MergeResult, SkippedTarget, Target
from msp_sdk.targets.choice import choose_credential, is_host_credential
from msp_sdk.targets.facts import Facts, take_computer
from msp_sdk.targets.identity import (
    DirectoryIndex,
    Reference,
    distinct,
    group_references,
    parse_reference,
)
from msp_sdk.targets.memory import keep_probe, of_other_domains, recall, vanished

# A host that only a person named: what it is, nobody said. As a server it is covered by rollouts as they come.
UNKNOWN_ROLE: ComputerRole = "server"
_KIND_ORDER = {"fqdn": 0, "name": 1, "address": 2}


@mutable
class _Machine:
    """All records of one machine."""

    key: str
    computer: Computer | None = None
    manual: list[tuple[Reference, ManualTarget]] = field(factory=list)
    credentials: list[tuple[Reference, Credential]] = field(factory=list)
    excluded: bool = False


class TargetMerger:
    """Merges manual entries, credentials and the directory into targets.

    Args:
        policy: The site's policy; the default allows a domain administrator on controllers only.
    """

    def __init__(self, policy: SitePolicy | None = None) -> None:
        self._policy = policy or SitePolicy()

    def merge(
        self,
        *,
        manual: Sequence[ManualTarget] = (),
        credentials: Sequence[Credential] = (),
        enumerated: Enumeration | Sequence[Computer] | None = None,
        previous: MergeResult | None = None,
        left_out: Collection[str] = (),
    ) -> MergeResult:
        """Merge all sources. No secret is opened.

        Args:
            manual: What people set, exclusions among it; any order.
            credentials: All that the appliance holds. One of a single host makes that host a target.
            enumerated: The directory as it was last read in full; probed or not. None means that it has not been
                read (yet), and then ``previous`` keeps what it said; an empty sequence means that it holds nothing.
                An :class:`Enumeration` speaks for its own domain: what ``previous`` holds of others stays.
            previous: The last result: keeps what probing found, and tells who has gone from the directory.
            left_out: objectGUIDs of those who have not gone: the site's scope leaves them out.

        Returns:
            Targets and skipped ones, each by folded host name; may both be empty.
        """
        gone: list[SkippedTarget] = []
        if enumerated is None:
            computers, carried = recall(previous)
        else:
            read = enumerated.computers if isinstance(enumerated, Enumeration) else enumerated
            elsewhere = (
                of_other_domains(previous, enumerated.domain_name) if isinstance(enumerated, Enumeration) else {}
            )
            computers, carried = {**elsewhere, **distinct(read)}, ()
            gone = vanished(previous, computers, left_out)
        machines = _gather(manual, credentials, computers)
        _exclude(machines, [entry for entry in manual if entry.excluded], computers)

        targets: list[Target] = []
        skipped: list[SkippedTarget] = []
        probed = {target.key: target for target in previous.targets} if previous else {}
        shared = [credential for credential in credentials if not is_host_credential(credential)]
        for machine in machines.values():
            skip = _left_out(machine)
            if skip is not None:
                skipped.append(skip)
                continue
            target = self._build(machine, shared)
            if _is_dead_to_its_domain(machine, target, credentials):
                assert machine.computer is not None  # noqa: S101 (only a listed computer can be disabled)
                skipped.append(_skip(machine.computer, "disabled-account"))
                continue
            targets.append(keep_probe(target, probed.get(target.key)))
        listed = {target.object_guid for target in targets} | {entry.object_guid for entry in skipped}
        skipped += [entry for entry in (*carried, *gone) if entry.object_guid not in listed]
        return MergeResult(
            targets=tuple(sorted(targets, key=lambda entry: (entry.hostname.casefold(), entry.key))),
            skipped=tuple(sorted(set(skipped), key=lambda e: (e.hostname.casefold(), e.object_guid or "", e.reason))),
        )

    def _build(self, machine: _Machine, shared: Sequence[Credential]) -> Target:
        facts = Facts()
        _take_manual(facts, machine)
        if machine.computer is not None:
            take_computer(facts, machine.computer)
        _take_credentials(facts, machine)
        facts.take("role", UNKNOWN_ROLE, "default")
        if machine.computer is None:
            facts.take("domain_name", _domain_by_name(machine, shared), facts.sources["hostname"])
        target = facts.target()
        if target.credential_id is None:
            chosen = choose_credential(
                target.role,
                target.domain_name,
                own=[credential for _, credential in machine.credentials],
                shared=shared,
                policy=self._policy,
            )
            if chosen is not None:
                facts.take("credential_id", chosen.id, "credential")
        return facts.target()


def _take_manual(facts: Facts, machine: _Machine) -> None:
    for _, entry in sorted(machine.manual, key=_manual_order):
        facts.take("hostname", _tidy(entry.hostname), "manual")
        for name in ("port", "use_ssl", "role", "credential_id"):
            facts.take(name, getattr(entry, name), "manual")
    addresses = sorted({reference.text for reference, _ in machine.manual if reference.kind == "address"})
    facts.take("ip_addresses", tuple(addresses), "manual")


def _take_credentials(facts: Facts, machine: _Machine) -> None:
    def order(pair: tuple[Reference, Credential]) -> tuple[int, str, str]:
        return (_KIND_ORDER[pair[0].kind], pair[0].text, pair[1].id)

    for reference, credential in sorted(machine.credentials, key=order):
        facts.take("hostname", _tidy(credential.host or ""), "credential")
        if reference.kind == "address":
            facts.take("ip_addresses", (reference.text,), "credential")
        facts.take("port", credential.port, "credential")
        facts.take("use_ssl", credential.use_ssl or None, "credential")


def _tidy(hostname: str) -> str:
    return hostname.strip().rstrip(".")


def _manual_order(pair: tuple[Reference, ManualTarget]) -> tuple[object, ...]:
    reference, entry = pair
    return (_KIND_ORDER[reference.kind], reference.text, repr(entry))


def _gather(
    manual: Iterable[ManualTarget], credentials: Iterable[Credential], computers: Mapping[str, Computer]
) -> dict[str, _Machine]:
    """Put every record at its machine. A reference that fits no computer, or several, stands for itself."""
    index = DirectoryIndex(computers)
    machines = {key: _Machine(key, computer) for key, computer in computers.items()}
    records: list[tuple[Reference, ManualTarget | Credential]] = [
        (parse_reference(entry.hostname), entry) for entry in manual if entry.hostname.strip()
    ]
    records += [
        (parse_reference(credential.host or ""), credential)
        for credential in credentials
        if is_host_credential(credential)
    ]
    found = {reference: index.candidates(reference) for reference, _ in records}
    homes = {reference: next(iter(keys)) for reference, keys in found.items() if len(keys) == 1}
    floating = group_references(reference for reference, _ in records if reference not in homes)
    for reference, record in records:
        if isinstance(record, ManualTarget) and record.excluded and found[reference]:
            continue  # it speaks of computers that are listed anyway
        key = homes.get(reference) or floating[reference]
        machine = machines.setdefault(key, _Machine(key))
        if isinstance(record, Credential):
            machine.credentials.append((reference, record))
        elif not record.excluded:
            machine.manual.append((reference, record))
    return machines


def _exclude(
    machines: Mapping[str, _Machine], exclusions: Iterable[ManualTarget], computers: Mapping[str, Computer]
) -> None:
    """Mark every machine that an exclusion may mean: where it is not clear, all of them."""
    index = DirectoryIndex(computers)
    unlisted = [
        (machine, [pair[0] for pair in (*machine.manual, *machine.credentials)])
        for machine in machines.values()
        if machine.computer is None
    ]
    for entry in exclusions:
        reference = parse_reference(entry.hostname)
        for key in index.candidates(reference):
            machines[key].excluded = True
        for machine, spoken in unlisted:
            if machine.key == f"{reference.kind}:{reference.text}" or any(_may_mean(reference, one) for one in spoken):
                machine.excluded = True
    for machine, spoken in unlisted:
        if not machine.excluded:
            # An ambiguous name or address must not be a back door to a machine that is excluded.
            machine.excluded = any(machines[key].excluded for one in spoken for key in index.candidates(one))


def _may_mean(excluded: Reference, other: Reference) -> bool:
    if excluded == other:
        return True
    if "address" in (excluded.kind, other.kind) or excluded.kind == other.kind:
        return False
    return excluded.label == other.label


def _left_out(machine: _Machine) -> SkippedTarget | None:
    computer = machine.computer
    if machine.excluded:
        hostname = computer.hostname if computer else _spoken_name(machine)
        guid = (computer.object_guid or None) if computer else None
        return SkippedTarget(hostname, "excluded", guid, _role(machine))
    if computer is not None and computer.skipped_reason and not machine.manual:
        return _skip(computer, computer.skipped_reason)
    if computer is None and not machine.manual and not machine.credentials:
        return SkippedTarget(_spoken_name(machine), "excluded")
    return None


def _skip(computer: Computer, reason: str) -> SkippedTarget:
    return SkippedTarget(computer.hostname, reason, computer.object_guid or None, computer.role)


def _is_dead_to_its_domain(machine: _Machine, target: Target, credentials: Iterable[Credential]) -> bool:
    """True for a disabled computer that a person named, without a local account to log on with.

    A person's word opens what we left out, but no domain logon can succeed at a computer whose own account is
    disabled: it could not ask its domain. An account of the machine itself needs no domain.
    """
    if machine.computer is None or machine.computer.skipped_reason != "disabled-account":
        return False
    return not any(entry.id == target.credential_id and not entry.is_domain for entry in credentials)


def _spoken_name(machine: _Machine) -> str:
    for _, entry in sorted(machine.manual, key=_manual_order):
        return _tidy(entry.hostname)
    return machine.key.partition(":")[2]


def _role(machine: _Machine) -> ComputerRole:
    if machine.computer is not None:
        return machine.computer.role
    return next((entry.role for _, entry in sorted(machine.manual, key=_manual_order) if entry.role), "other")


def _domain_by_name(machine: _Machine, shared: Iterable[Credential]) -> str | None:
    """The domain of a host that no directory knows, when its full name lies in the domain of a credential."""
    names = [reference.text for reference, _ in machine.manual if reference.kind == "fqdn"]
    domains = sorted({credential.domain_name for credential in shared if credential.domain_name}, key=str.casefold)
    for domain in domains:
        if any(name.partition(".")[2] == domain.rstrip(".").casefold() for name in names):
            return domain
    return None
