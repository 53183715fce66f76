"""The netlogon ping: what a controller tells anybody about its domain, as values. Pure.

A ping is one LDAP search for the attribute ``Netlogon`` in one datagram; its answer is one packed structure. Bytes
of a stranger raise :class:`~msp_sdk.errors.WireError` and nothing else.

Source: MS-ADTS 6.3.1 (structures), 6.3.3 (the ping), 6.3.7 (compressed names); RFC 4511 (LDAP); RFC 1035 4.1.4.

Example:
    >>> ping = encode_ping("northvalley.test", message_id=1)
    >>> ping[0]
    48
"""

from __future__ import annotations

import uuid
from enum import IntFlag

from attrs import frozen

from msp_sdk.directory.ber import (
    SEARCH_DONE,
    Framer,
    encode,
    encode_message,
    encode_number,
    encode_text,
)
from msp_sdk.directory.entry_reader import EntryReader
from msp_sdk.discovery.packed_names import read_packed_name
from msp_sdk.errors import WireError

# Extended answers with DNS names, and the site that is next to ours.
_NT_VERSION = 0x2 | 0x4 | 0x10
_WITH_ADDRESS = 0x8
_WITH_NEXT_SITE = 0x10
_OPCODES = frozenset({23, 24, 25})
_PAUSED = 24

_HEADER_BYTES = 24
_TAIL_BYTES = 8
_MAX_DATAGRAM = 65535

_SEARCH, _AND, _EQUAL = 0x63, 0xA0, 0xA3
_SEQUENCE, _BOOLEAN, _ENUMERATED = 0x30, 0x01, 0x0A


class ControllerFlags(IntFlag):
    """What a controller is and does. Source: MS-ADTS 6.3.1.2."""

    PDC = 0x1
    GC = 0x4
    LDAP = 0x8
    DS = 0x10
    KDC = 0x20
    TIME = 0x40
    CLOSEST = 0x80
    WRITABLE = 0x100
    GOOD_TIME = 0x200
    READ_ONLY = 0x800
    FULL_SECRETS = 0x1000
    WEB_SERVICES = 0x2000
    SERVER_2012 = 0x4000
    SERVER_2012_R2 = 0x8000
    SERVER_2016 = 0x10000


_F = ControllerFlags
_WORTH_A_WORD = (_F.PDC, _F.GC, _F.KDC, _F.WRITABLE, _F.READ_ONLY, _F.TIME, _F.GOOD_TIME, _F.WEB_SERVICES)


@frozen
class NetlogonAnswer:
    """What a controller answered. DNS names in lower case; a text that it left out is empty.

    Attributes:
        client_site: The site that our address lies in; empty where no subnet is defined for it.
        paused: It is starting or stopping: take another one.
    """

    domain_guid: str
    forest: str
    domain_name: str
    controller: str
    netbios_name: str
    netbios_controller: str
    ad_site: str
    client_site: str
    flags: ControllerFlags
    next_site: str = ""
    paused: bool = False

    def describe(self) -> str:
        """One line for evidence."""
        can = [flag.name or "" for flag in _WORTH_A_WORD if flag in self.flags]
        ours = self.client_site or "not defined"
        return (
            f"holds {self.domain_name} ({self.netbios_name}), forest {self.forest}, site {self.ad_site or '-'},"
            f" our site {ours}, {' '.join(can)}{' PAUSED' if self.paused else ''}"
        )


def encode_ping(domain_name: str | None, *, message_id: int) -> bytes:
    """A ping as one datagram.

    Args:
        domain_name: The domain to ask for; None asks a controller for its own.
        message_id: 1 to 0x7fffffff; the answer carries it.
    """
    terms = encode(_EQUAL, encode_text("NtVer"), encode_text(_NT_VERSION.to_bytes(4, "little")))
    if domain_name is not None:
        terms = encode(_EQUAL, encode_text("DnsDomain"), encode_text(domain_name)) + terms
    # The rootDSE itself, no alias followed, no limits, values too.
    base = (encode_text(""), encode_number(0, _ENUMERATED), encode_number(0, _ENUMERATED))
    limits = (encode_number(0), encode_number(0), encode(_BOOLEAN, b"\0"))
    wanted = encode(_SEQUENCE, encode_text("Netlogon"))
    return encode_message(message_id, encode(_SEARCH, *base, *limits, encode(_AND, terms), wanted))


def parse_reply(datagram: bytes, *, message_id: int) -> NetlogonAnswer | None:
    """Read the answer to a ping.

    Args:
        datagram: As it came.
        message_id: Of the ping.

    Returns:
        None when the controller says that it has nothing to tell (another domain's, or no controller).

    Raises:
        WireError: The bytes are no answer to this ping. Not retryable.
    """
    framer = Framer(_MAX_DATAGRAM)
    messages = framer.feed(datagram)
    if not messages or not framer.empty:
        raise _wrong("the datagram holds no whole answer")
    first = messages[0]
    if first.message_id != message_id:
        raise _wrong("the message answers another question")
    if first.tag == SEARCH_DONE:
        return None
    values = EntryReader().read(first).attributes.get("netlogon", ())
    return parse_netlogon(values[0]) if values else None


def parse_netlogon(data: bytes) -> NetlogonAnswer:
    """Read NETLOGON_SAM_LOGON_RESPONSE_EX.

    Raises:
        WireError: It is none. Not retryable.
    """
    if len(data) < _HEADER_BYTES + _TAIL_BYTES:
        raise _wrong("the answer is too short")
    opcode = int.from_bytes(data[:2], "little")
    if opcode not in _OPCODES:
        raise _wrong(f"an answer of kind {opcode} is none of the extended ones")
    # The tail says which optional fields are there.
    version = int.from_bytes(data[-_TAIL_BYTES:-4], "little")
    end = len(data) - _TAIL_BYTES
    texts, at = [], _HEADER_BYTES
    for _ in range(8):
        text, at = read_packed_name(data, at, end)
        texts.append(text)
    if version & _WITH_ADDRESS and at < end:
        at += 1 + data[at]
    next_site = ""
    if version & _WITH_NEXT_SITE and at < end:
        next_site, at = read_packed_name(data, at, end)
    if at > end:
        raise _wrong("the answer ends too early")
    forest, domain, controller, netbios, netbios_controller, _user, site, client_site = texts
    if not domain or not controller:
        raise _wrong("the answer names no domain or no controller")
    return NetlogonAnswer(
        domain_guid=str(uuid.UUID(bytes_le=data[8:24])),
        forest=forest.lower(),
        domain_name=domain.lower(),
        # Some write UNC style.
        controller=controller.lstrip("\\").lower(),
        netbios_name=netbios,
        netbios_controller=netbios_controller.lstrip("\\"),
        ad_site=site,
        client_site=client_site,
        flags=ControllerFlags(int.from_bytes(data[4:8], "little") & sum(ControllerFlags)),
        next_site=next_site,
        paused=opcode == _PAUSED,
    )


def _wrong(why: str) -> WireError:
    return WireError(f"{why}.", path="netlogon")
