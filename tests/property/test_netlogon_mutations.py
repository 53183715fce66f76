"""Whatever bytes a stranger sends instead of a controller's answer, or of a lease: an error of ours, and no hang."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from msp_sdk.discovery.dhcp import parse_dhclient, parse_dhcp_message, parse_key_values, parse_resolv_lease
from msp_sdk.discovery.netlogon import encode_ping, parse_netlogon, parse_reply
from msp_sdk.errors import WireError
from msp_sdk.testing.directory_spec import DirectorySpec
from msp_sdk.testing.netlogon import NetlogonServer

MUTATIONS = 100_000
SPEC = DirectorySpec("clinic.northvalley.test", "CLINIC", forest="northvalley.test", ad_site="Zürich")
SERVER = NetlogonServer(SPEC, sites={"10.0.0.0/8": "Basel"})
REPLY = SERVER.respond(encode_ping(SPEC.domain, message_id=7), "10.0.0.1") or b""
ANSWER = SERVER.netlogon("10.0.0.1", 0x16)


def read(data: bytes) -> bool:
    """True when it was read; anything but an answer or a WireError fails the test."""
    try:
        parse_reply(data, message_id=7)
        parse_netlogon(data)
    except WireError:
        return False
    return True


def mutate(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed))
        match random.randrange(4):
            case 0:
                changed[at] = random.randrange(256)
            case 1:
                # A pointer, mostly a wrong one.
                changed[at] = 0xC0
            case 2:
                del changed[at : at + random.randint(1, 8)]
                changed += b"\0"
            case 3:
                changed[at:at] = bytes(random.randrange(256) for _ in range(random.randint(1, 8)))
    return bytes(changed)


def test_a_hundred_thousand_mutated_answers_raise_nothing_but_wire_errors():
    random = Random(20260301)  # noqa: S311 (a repeatable draw)
    assert parse_reply(REPLY, message_id=7) == parse_netlogon(ANSWER)
    survived = 0
    for number in range(MUTATIONS):
        original, parse = ((REPLY, True), (ANSWER, False))[number % 2]
        data = mutate(original, random)
        try:
            if parse:
                parse_reply(data, message_id=7)
            else:
                parse_netlogon(data)
        except WireError:
            continue
        survived += 1
    # Some changes do no harm, most do: otherwise the mutations would prove nothing.
    assert 0 < survived < MUTATIONS


@given(st.binary(max_size=600))
def test_any_bytes_are_refused_or_read(data):
    read(data)


@given(st.binary(max_size=600))
def test_no_lease_breaks_its_reader(data):
    text = data.decode("utf-8", "replace")
    for lease in (
        parse_dhcp_message(data),
        parse_dhcp_message(bytes(236) + bytes((99, 130, 83, 99)) + data),
        parse_key_values(text, "x"),
        parse_dhclient(text),
        parse_resolv_lease(text, "x"),
    ):
        assert all(lease.domains)
