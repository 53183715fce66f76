"""What the page of a site says, as plain values: status is an icon, a word and a colour, never a colour alone.

Pure rules; the templates only print them. What is unknown is neither good nor bad.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, get_args
from urllib.parse import urlencode

from attrs import evolve, frozen

from central_app.rollouts.coverage import HostIndex, HostNames
from msp_sdk.models.compliance import CheckResult
from msp_sdk.models.computer import Computer, LapsKind
from msp_sdk.models.reason import REASONS
from msp_sdk.models.rollout import Outcome
from msp_sdk.models.site import DeploymentStatus, Phase
from msp_sdk.models.target import SkippedTarget, Target

Tone = Literal["good", "bad", "wait", "idle"]
Kind = Literal["agent", "failed", "waiting", "pending", "skipped"]

PAGE_COUNT = 100
ICONS: dict[Tone, str] = {"good": "✓", "bad": "✕", "wait": "…", "idle": "○"}


@frozen
class Words:
    """A title and what it means."""

    title: str
    meaning: str = ""


PHASES: dict[Phase, Words] = {
    "discovering": Words("Discovering", "The appliance looks for the Active Directory domain by itself."),
    "awaiting_credentials": Words(
        "Awaiting credentials", "One account that reads the directory is all that is needed now."
    ),
    "enumerating": Words("Enumerating", "The directory's computers are being read."),
    "deploying": Words("Deploying", "The agent is being brought onto every computer of the rollout."),
    "scanning": Words("Scanning", "Every computer in reach gets its first checks."),
    "complete": Words("Complete", "Every computer has its agent, or a reason why not."),
}
ORDER: tuple[Phase, ...] = get_args(Phase)
ROLE_WORDS = {
    "domain_controller": "Domain controller",
    "server": "Server",
    "workstation": "Workstation",
    "other": "Other",
}
KIND_WORDS: dict[Kind, tuple[str, Tone]] = {
    "agent": ("Agent running", "good"),
    "failed": ("Failed", "bad"),
    "waiting": ("Waiting", "wait"),
    "pending": ("Not yet", "idle"),
    "skipped": ("Left out", "idle"),
}
CHECK_WORDS: dict[str, tuple[str, Tone]] = {
    "pass": ("pass", "good"),
    "fail": ("fail", "bad"),
    "warning": ("warning", "wait"),
    "error": ("no answer", "wait"),
    "not_applicable": ("does not apply", "idle"),
}
LAPS_WORDS: dict[LapsKind, str] = {
    "legacy": "legacy LAPS",
    "windows": "Windows LAPS",
    "windows-encrypted": "Windows LAPS, encrypted",
}
_AWAITED = {
    "appliance": Words("Waiting for an appliance", "Claim a provision code of this site on an appliance."),
    "approval": Words("An appliance waits for approval", "Approve it, or revoke it if you do not know it."),
    "discovery": Words("Waiting for discovery", "The appliance is asking the network; nothing needs doing."),
    "enumeration": Words("Waiting for the enumeration", "The appliance is reading the directory."),
    "package": Words("Waiting for the agent's package", "Upload the package that the site's rollout names."),
    "targets": Words("Waiting for the list of targets", "The appliance is merging it; nothing needs doing."),
    "outcomes": Words("Waiting for computers", "Each gets an agent, or a reason why not."),
    "rollout-paused": Words("The rollout is paused", "Resume it to go on."),
    "scan": Words("Waiting for first checks", "The appliance is scanning what it can reach."),
    "domain_credential": Words("Waiting for a credential", "Store a credential of the domain."),
}


@frozen
class Step:
    """A rung of the ladder."""

    title: str
    state: Literal["done", "now", "later"]
    icon: str
    word: str


@frozen
class Notice:
    """What the site waits for."""

    title: str
    detail: str
    remedy: str
    tone: Tone
    icon: str


@frozen
class Figure:
    """A number on the page."""

    title: str
    value: str
    tone: str = ""


@frozen
class Check:
    """A check of a host."""

    name: str
    word: str
    tone: Tone
    icon: str


@frozen
class HostLine:
    """A computer as the table has it; what the directory says of it is added for those that are shown."""

    name: str
    role: str
    kind: Kind
    word: str
    tone: Tone
    icon: str
    os: str = ""
    reason: str = ""
    remedy: str = ""
    detail: str = ""
    agent_version: str = ""
    checks: tuple[Check, ...] = ()
    object_guid: str = ""
    ou: str = ""
    managed_by: str = ""
    laps: str = ""
    last_logon: str = ""
    last_logon_ago: str = ""


@frozen
class Filter:
    """A link that shows the computers of one state, and how many there are."""

    title: str
    query: str
    count: int
    current: bool


def make_ladder(phase: Phase) -> tuple[Step, ...]:
    """The six phases, those before this one done; a complete site has all of them done."""
    now = ORDER.index(phase)
    steps = []
    for number, name in enumerate(ORDER):
        if number < now or phase == "complete":
            steps.append(Step(PHASES[name].title, "done", "✓", "done"))
        elif number == now:
            steps.append(Step(PHASES[name].title, "now", str(number + 1), "under way"))
        else:
            steps.append(Step(PHASES[name].title, "later", str(number + 1), "to come"))
    return tuple(steps)


def make_notice(awaiting: str, credentials: Mapping[str, str]) -> Notice:
    """What a slug of ``awaiting`` means for a person.

    Args:
        awaiting: Such as ``domain_credential:<id>:wrong-password``; one of a newer rule is shown as it is.
        credentials: The user name of each credential, by id.
    """
    what, _, rest = awaiting.partition(":")
    words = _AWAITED.get(what, Words(awaiting))
    if what == "domain_credential" and ":" in rest:
        credential_id, _, code = rest.rpartition(":")
        known = REASONS.get(code)
        name = credentials.get(credential_id, credential_id)
        return Notice(
            f"The credential {name} was refused",
            known.title if known else code,
            known.remedy if known else "",
            "bad",
            "✕",
        )
    if what == "discovery" and rest in REASONS:
        return Notice(words.title, REASONS[rest].title, REASONS[rest].remedy, "bad", "✕")
    if what == "enumeration" and rest:
        known = REASONS.get(rest)
        return Notice(
            "The directory could not be read", known.title if known else rest, known.remedy if known else "", "bad", "✕"
        )
    title = f"{words.title} of {rest}" if what == "domain_credential" and rest else words.title
    if what in ("outcomes", "scan", "rollout-paused") and rest.isdigit():
        title = f"{title}: {rest} to go"
    person = what in ("domain_credential", "package", "approval", "appliance", "rollout-paused")
    return Notice(title, words.meaning, "", "wait" if person else "idle", "!" if person else "…")


def make_figures(status: DeploymentStatus) -> tuple[Figure, ...]:
    """The numbers behind the phase."""
    details = status.details
    domain = (
        details.domain_discovered
        or {"none": "none here", "found": "found", "unknown": "not known yet"}[details.directory]
    )
    # Nobody has counted yet: that is not none (lesson 24).
    counted = ORDER.index(status.phase) > ORDER.index("enumerating")

    def found(title: str, count: int) -> Figure:
        return Figure(title, str(count)) if counted or count else Figure(title, "not yet counted", "text")

    return (
        Figure("Domain", domain, "text"),
        found("Servers", details.servers_found),
        found("Workstations", details.workstations_found),
        Figure("Agents running", str(details.agents_deployed), "good" if details.agents_deployed else ""),
        Figure("Failed", str(details.agents_failed), "bad" if details.agents_failed else ""),
    )


def make_reasons(skipped: Mapping[str, int]) -> tuple[Figure, ...]:
    """How many computers are no target, by reason in words; the most first."""
    ordered = sorted(skipped.items(), key=lambda entry: (-entry[1], entry[0]))
    return tuple(Figure(REASONS[code].title if code in REASONS else code, str(count)) for code, count in ordered)


@frozen
class SiteHosts:
    """Everything that is known of a site's computers; of those in the directory, names and roles."""

    computers: Sequence[tuple[HostNames, str]] = ()
    targets: Sequence[Target] = ()
    skipped: Sequence[SkippedTarget] = ()
    outcomes: Sequence[Outcome] = ()
    checks: Sequence[CheckResult] = ()


@frozen
class _Host:
    names: HostNames
    role: str
    os: str = ""
    skipped: SkippedTarget | None = None
    is_target: bool = False
    code: str | None = None


def _hosts(known: SiteHosts) -> Iterable[_Host]:
    """Each computer once: of the directory, then what a person added."""
    skipped = HostIndex.make((HostNames(entry.hostname, None, entry.object_guid), entry) for entry in known.skipped)
    targets = HostIndex.make(
        (HostNames(entry.hostname, entry.fqdn, entry.object_guid), entry) for entry in known.targets
    )
    for names, role in known.computers:
        target = targets.find(names)
        yield _Host(names, role, skipped=None if target else skipped.find(names), is_target=target is not None)
    seen = HostIndex.make((names, True) for names, _ in known.computers)
    for target in known.targets:
        names = HostNames(target.hostname, target.fqdn, target.object_guid)
        if not seen.find(names):
            yield _Host(names, target.role, target.os_name or "", None, is_target=True, code=target.unreachable_reason)
    for entry in known.skipped:
        names = HostNames(entry.hostname, None, entry.object_guid)
        if not seen.find(names) and not targets.find(names):
            yield _Host(names, entry.role, "", entry)


def make_lines(known: SiteHosts) -> tuple[HostLine, ...]:
    """The table of a site's computers, by name."""
    outcomes = HostIndex.make((HostNames(entry.hostname, None, entry.object_guid), entry) for entry in known.outcomes)
    checks: dict[str, tuple[HostNames, list[CheckResult]]] = {}
    for result in known.checks:
        names = HostNames(result.hostname, None, result.object_guid)
        checks.setdefault(names.key, (names, []))[1].append(result)
    found = HostIndex.make(checks.values())
    lines = [_line(host, outcomes.find(host.names), found.find(host.names) or ()) for host in _hosts(known)]
    return tuple(sorted(lines, key=lambda line: line.name.casefold()))


def _kind(host: _Host, outcome: Outcome | None) -> Kind:
    if outcome is None:
        return "skipped" if host.skipped or not host.is_target else "pending"
    if outcome.state == "done":
        return "agent" if outcome.success and outcome.action != "remove" else "skipped"
    kinds: dict[str, Kind] = {"failed": "failed", "waiting": "waiting", "skipped": "skipped"}
    return kinds[outcome.state]


def _line(host: _Host, outcome: Outcome | None, results: Sequence[CheckResult]) -> HostLine:
    kind = _kind(host, outcome)
    word, tone = KIND_WORDS[kind]
    code = outcome.error.code if outcome and outcome.error else host.skipped.reason if host.skipped else host.code
    if kind == "agent":
        code = None
    known = REASONS.get(code or "")
    detail = outcome.error.detail if outcome and outcome.error else host.skipped.detail if host.skipped else ""
    return HostLine(
        name=host.names.hostname,
        role=ROLE_WORDS.get(host.role, host.role),
        kind=kind,
        word=word,
        tone=tone,
        icon=ICONS[tone],
        os=host.os,
        reason=known.title if known else (code or ""),
        remedy=known.remedy if known else (outcome.error.remedy if outcome and outcome.error else ""),
        detail=detail if known is None or detail != known.title else "",
        agent_version=(outcome.agent_version or "") if outcome else "",
        checks=tuple(_check(result) for result in sorted(results, key=lambda result: result.check)),
        object_guid=host.names.object_guid or "",
    )


def add_directory(line: HostLine, computer: Computer | None, now: datetime) -> HostLine:
    """The line with what the directory says of the computer; as it is where the directory does not hold it.

    A reason that was found on the way to the host stays: it is newer than the directory's.
    """
    if computer is None:
        return line
    code = None if line.reason or line.kind == "agent" else computer.unreachable_reason or computer.skipped_reason
    known = REASONS.get(code or "")
    seen = computer.last_logon_at
    return evolve(
        line,
        os=computer.os_name or line.os,
        ou=computer.ou_path,
        managed_by=computer.managed_by or "",
        laps=LAPS_WORDS[computer.laps] if computer.laps else "",
        last_logon=seen.isoformat() if seen else "",
        last_logon_ago=ago(seen, now) if seen else "",
        reason=line.reason or (known.title if known else code or ""),
        remedy=line.remedy or (known.remedy if known else ""),
    )


def _check(result: CheckResult) -> Check:
    word, tone = CHECK_WORDS[result.status]
    return Check(result.check, word, tone, ICONS[tone])


def make_filters(lines: Sequence[HostLine], current: str | None) -> tuple[Filter, ...]:
    """Links to all computers and to those of each state. The counts are of exactly the rows they lead to."""
    made = [Filter("All", "state=all", len(lines), current is None)]
    for kind, (word, _) in KIND_WORDS.items():
        count = sum(1 for line in lines if line.kind == kind)
        if count or current == kind:
            made.append(Filter(word, urlencode({"state": kind}), count, current == kind))
    return tuple(made)


def make_page(lines: Sequence[HostLine], state: str | None, offset: int) -> tuple[Sequence[HostLine], str | None]:
    """A page of the computers of one state (None: all), and the query of the next page, if there is one."""
    wanted = [line for line in lines if state is None or line.kind == state]
    following = offset + PAGE_COUNT
    more = urlencode({"state": state or "all", "from": following}) if following < len(wanted) else None
    return wanted[offset:following], more


def ago(then: datetime, now: datetime) -> str:
    """How long ago, roughly: nobody counts seconds of yesterday."""
    seconds = max(0, int((now - then).total_seconds()))
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {word}{'s' if count != 1 else ''} ago"
    return "just now" if seconds < 10 else f"{seconds} seconds ago"  # noqa: PLR2004 (a person's "now")
