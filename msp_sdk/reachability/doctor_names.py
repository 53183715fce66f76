"""What the DNS servers' answers for a name mean: who is right, who filters, who knows nothing. No I/O.

Example:
    >>> answers = [ServerAnswer("10.0.0.10", addresses=("10.1.2.3",))]
    >>> look_at_name(("srv1.corp.example",), answers).finding.title
    'srv1.corp.example is 10.1.2.3, says 10.0.0.10.'
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from attrs import evolve, frozen

from msp_sdk.models.finding import Finding, fine, not_looked_at, remark, trouble
from msp_sdk.models.reason import REASONS
from msp_sdk.network.own_networks import OwnNetworks

# What filters answer instead of a block page: Pi-hole and most others by their defaults.
_NOWHERE = frozenset({"0.0.0.0", "::", "127.0.0.1", "::1"})  # noqa: S104 (an answer of DNS, nothing is bound)
# The block pages of Cisco Umbrella, which was OpenDNS.
_BLOCK_PAGES = (ipaddress.ip_network("146.112.61.104/29"),)
_SHOWN = 4


@frozen
class ServerAnswer:
    """What one DNS server said of one name.

    Attributes:
        server: As :func:`msp_sdk.network.resolver.render_server` has it.
        addresses: A, then AAAA; empty when it knows none.
        alias: The name that it is an alias of (CNAME).
        failure: The code of the error when it gave no answer at all.
        used: False for a server that is asked for comparison alone.
    """

    server: str
    addresses: tuple[str, ...] = ()
    alias: str | None = None
    failure: str | None = None
    used: bool = True

    @property
    def is_blocked(self) -> bool:
        """True for an answer that only a filter gives."""
        return any(is_block_page(address) for address in self.addresses)


@frozen
class NameLook:
    """A finding, the name that was found, and the addresses to go on with; they may be empty."""

    finding: Finding
    name: str
    addresses: tuple[str, ...] = ()


def is_block_page(address: str) -> bool:
    """True for an address that leads nowhere, or to a filter's page that we know."""
    asked = ipaddress.ip_address(address.partition("%")[0])
    return str(asked) in _NOWHERE or any(asked in network for network in _BLOCK_PAGES)


def candidates(host: str, search: Sequence[str]) -> tuple[str, ...]:
    """The absolute names that a host's name may stand for, in order; never empty."""
    host = host.rstrip(".").casefold()
    return (host,) if "." in host else (*(f"{host}.{domain.strip('.').casefold()}" for domain in search), host)


def look_at_name(names: Sequence[str], answers: Sequence[ServerAnswer]) -> NameLook:
    """Which addresses the name has, by the servers that the work asks.

    Args:
        names: All names that were tried; the answers are for the last one, or the one that was found.
        answers: In the order of the servers; the work goes by the first one that answers.
    """
    name = names[-1]
    evidence: dict[str, object] = {
        "name": name,
        "asked": list(names),
        "answers": [_plain(answer) for answer in answers],
        "mdns_name": name.endswith(".local"),
    }
    used = [answer for answer in answers if answer.used]
    said = [answer for answer in used if answer.failure is None]
    if not said:
        return NameLook(_no_answer(name, used, evidence), name)
    first = said[0]
    known = [answer for answer in answers if answer.addresses and not answer.is_blocked]
    good = next((answer for answer in known if answer.used), None)
    addresses = good.addresses if good is not None else ()
    evidence |= {"server": first.server, "addresses": list(addresses)}
    if first.is_blocked:
        said_so = f"{first.server} answers {_some(first.addresses)} for {name}: a DNS filter's answer."
        return NameLook(trouble("name", "dns-filtered", said_so, evidence), name, addresses)
    if not first.addresses and good is not None:
        title = f"{first.server}, which is asked first, does not know {name}; {good.server} does."
        return NameLook(trouble("name", "dns-differs", title, evidence), name, addresses)
    if not first.addresses:
        return NameLook(_unknown(names, first, known, evidence), name)
    alias = f", an alias of {first.alias}," if first.alias else ""
    evidence["alias"] = first.alias
    title = f"{name}{alias} is {_some(addresses)}, says {first.server}."
    return NameLook(fine("name", title, evidence), name, addresses)


def _no_answer(name: str, used: Sequence[ServerAnswer], evidence: dict[str, object]) -> Finding:
    codes = [answer.failure for answer in used if answer.failure]
    code = codes[0] if codes else "no-dns-server"
    # Two servers that fail in two ways have one thing in common.
    code = code if len(set(codes)) <= 1 and code in REASONS else "dns-failed"
    servers = _some([answer.server for answer in used])
    title = f"No DNS server answers for {name} ({servers})." if used else "No DNS server is known."
    return trouble("name", code, title, evidence)


def _unknown(
    names: Sequence[str], first: ServerAnswer, known: Sequence[ServerAnswer], evidence: dict[str, object]
) -> Finding:
    title = f"{first.server} knows no address for {_some(names)}."
    if known:
        title = f"{first.server} knows no address for {names[-1]}, but {known[0].server}, which is not used, does."
        evidence["elsewhere"] = list(known[0].addresses)
    if "." not in names[-1] and len(names) == 1:
        remedy = "Give the whole name, such as srv1.corp.example."
        return trouble("name", "no-address", title, evidence, remedy=remedy)
    return trouble("name", "no-address", title, evidence)


def beside_known_addresses(finding: Finding, known: Sequence[str], told: Sequence[str]) -> Finding:
    """What DNS says of a target whose addresses are known already: the work goes by those, so it stops nothing."""
    evidence = {**finding.evidence, "known_addresses": list(known)}
    if finding.ok and set(known) != set(told):
        title = f"The target is at {_some(known)}; DNS says {_some(told)}."
        return remark("name", "dns-differs", title, evidence)
    return evolve(finding, ok=True, evidence=evidence)


def look_at_servers(name: str, answers: Sequence[ServerAnswer]) -> Finding:  # noqa: PLR0911 (one return a case)
    """Whether the servers agree. Nothing here stops the work: it goes by the first server that answers."""
    evidence: dict[str, object] = {"name": name, "answers": [_plain(answer) for answer in answers]}
    blocked = [answer for answer in answers if answer.is_blocked]
    if blocked:
        who = _some([answer.server for answer in blocked])
        return remark("dns-servers", "dns-filtered", f"A DNS filter answers for {name} at {who}.", evidence)
    failed = [answer for answer in answers if answer.failure is not None]
    said = [answer for answer in answers if answer.failure is None]
    first = next((answer for answer in said if answer.used), None)
    if first is not None:
        other = [answer for answer in said if answer.used and set(answer.addresses) != set(first.addresses)]
        if other:
            title = f"{first.server} says {_some(first.addresses)}, {other[0].server} says {_some(other[0].addresses)}."
            return remark("dns-servers", "dns-differs", title, evidence)
    failed = [answer for answer in failed if answer.used]
    if failed and first is not None:
        who = _some([answer.server for answer in failed])
        code = failed[0].failure if failed[0].failure in REASONS else "dns-failed"
        return remark("dns-servers", code or "dns-failed", f"{who} did not answer; the others did.", evidence)
    strangers = [a.server for a in said if not a.used and first and set(a.addresses) != set(first.addresses)]
    if strangers:
        title = f"The servers that are used agree; {_some(strangers)}, not used for this name, does not."
        return fine("dns-servers", title, evidence)
    if not said:
        return not_looked_at("dns-servers", "no DNS server answered")
    if len(said) > 1:
        return fine("dns-servers", f"All {len(said)} servers that were asked say the same.", evidence)
    return fine("dns-servers", "One server was asked; there is nothing to compare it with.", evidence)


def look_at_reverse(name: str | None, answers: Mapping[str, tuple[str, ...] | None]) -> Finding:
    """Whether reverse DNS agrees with the name.

    Args:
        name: None when an address was given.
        answers: By address, what reverse DNS calls it; empty where it has no name, None where no server could say.
    """
    names = {address: found for address, found in answers.items() if found is not None}
    if answers and not names:
        return not_looked_at("reverse-name", "no DNS server could say what the address is called")
    evidence: dict[str, object] = {"names": {address: list(found) for address, found in names.items()}}
    told = sorted({found for entry in names.values() for found in entry})
    if not told:
        return fine("reverse-name", "Reverse DNS has no name for the address; nothing here needs one.", evidence)
    if name is None:
        return fine("reverse-name", f"Reverse DNS calls it {_some(told)}.", evidence)
    for address, found in names.items():
        if found and name.casefold() not in found:
            title = f"Reverse DNS calls {address} {_some(found)}."
            return remark("reverse-name", "reverse-name-differs", title, evidence)
    return fine("reverse-name", f"Reverse DNS calls it {_some(told)} too.", evidence)


def look_at_network(addresses: Sequence[str], own: OwnNetworks) -> Finding:
    """Where the addresses lie, seen from this machine."""
    where = {address: _place(address, own) for address in addresses}
    evidence: dict[str, object] = {"places": where, "own_subnets": [str(subnet) for subnet in own.subnets]}
    if len(addresses) > 1:
        evidence["several"] = True
    if all(place == "public" for place in where.values()):
        title = f"{_some(addresses)} is a public address, outside of this site's networks."
        return remark("network", "public-address", title, evidence)
    words = {
        "own-subnet": "in a subnet of this machine",
        "private": "in another private network",
        "own-address": "this machine itself",
        "link-local": "link-local: it was given by no DHCP server",
        "public": "public",
    }
    title = "; ".join(f"{address} is {words[place]}" for address, place in list(where.items())[:_SHOWN])
    return fine("network", f"{title}.", evidence)


def _place(address: str, own: OwnNetworks) -> str:
    asked = ipaddress.ip_address(address.partition("%")[0])
    if own.is_own(address):
        return "own-address"
    subnets = own.subnets if asked.version == 4 else own.subnets_v6  # noqa: PLR2004 (IPv4)
    if any(asked in subnet for subnet in subnets):
        return "own-subnet"
    if asked.is_link_local:
        return "link-local"
    return "private" if own.is_near(address) else "public"


def _plain(answer: ServerAnswer) -> dict[str, object]:
    return {
        "server": answer.server,
        "used": answer.used,
        "addresses": list(answer.addresses),
        "alias": answer.alias,
        "failure": answer.failure,
    }


def _some(words: Sequence[str]) -> str:
    if not words:
        return "nothing"
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
