"""The netlogon ping: its bytes, the talker over real sockets, and a stand-in that answers as Windows does."""

from __future__ import annotations

import struct
import uuid

import pytest

from msp_sdk.discovery.cldap import ping
from msp_sdk.discovery.netlogon import ControllerFlags, encode_ping, parse_netlogon, parse_reply
from msp_sdk.discovery.packed_names import read_packed_name
from msp_sdk.errors import DiscoveryError, WireError
from msp_sdk.testing.directory_spec import DirectorySpec
from msp_sdk.testing.netlogon import READ_ONLY_FLAGS, NetlogonServer

pytestmark = pytest.mark.anyio

SPEC = DirectorySpec("clinic.northvalley.test", "CLINIC", forest="northvalley.test", ad_site="Zürich", hostname="dc7")
QUICK = (0.1, 0.2)

# As an LDAP browser would write it, byte by byte: DnsDomain=a.test and NtVer=0x16, attribute Netlogon.
PING = bytes.fromhex(
    "3048020107634304000a01000a0100020100020100010100"
    "a024a3130409446e73446f6d61696e0406612e74657374a30d04054e74566572040416000000"
    "300a04084e65746c6f676f6e"
)


async def test_a_ping_is_the_search_that_the_documents_describe():
    assert encode_ping("a.test", message_id=7) == PING
    assert b"DnsDomain" not in encode_ping(None, message_id=7)


@pytest.mark.parametrize("message_id", [1, 127, 128, 255, 256, 0x7FFF_FFFF])
async def test_every_message_id_comes_back(message_id):
    answer = NetlogonServer(SPEC).respond(encode_ping(None, message_id=message_id), "127.0.0.1")
    assert parse_reply(answer, message_id=message_id) is not None
    with pytest.raises(WireError):
        parse_reply(answer, message_id=message_id ^ 1)


async def test_everything_that_a_controller_tells_is_read():
    # Lesson 21: the NetBIOS name is read, never guessed.
    async with NetlogonServer(SPEC, sites={"127.0.0.0/8": "Bern", "127.0.0.0/24": "Basel"}) as server:
        answer = await ping("127.0.0.1", server.port, SPEC.domain)
        assert answer is not None
        assert (answer.forest, answer.domain_name, answer.netbios_name) == (SPEC.forest, SPEC.domain, "CLINIC")
        assert (answer.controller, answer.netbios_controller) == (f"dc7.{SPEC.domain}", "DC7")
        assert (answer.ad_site, answer.client_site, answer.next_site) == ("Zürich", "Basel", "Zürich")
        assert answer.domain_guid == str(uuid.uuid5(uuid.NAMESPACE_DNS, SPEC.domain))
        assert {ControllerFlags.PDC, ControllerFlags.GC, ControllerFlags.WRITABLE} <= set(answer.flags)
        assert not answer.paused
        assert "our site Basel" in answer.describe()


async def test_a_site_that_nobody_defined_is_empty_and_no_error():
    async with NetlogonServer(SPEC) as server:
        answer = await ping("127.0.0.1", server.port, SPEC.domain)
        assert answer is not None
        assert answer.client_site == ""


async def test_a_controller_asked_for_no_domain_tells_its_own_and_for_another_nothing():
    async with NetlogonServer(SPEC, flags=READ_ONLY_FLAGS) as server:
        answer = await ping("127.0.0.1", server.port, None)
        assert answer is not None
        assert answer.domain_name == SPEC.domain
        assert ControllerFlags.READ_ONLY in answer.flags
        assert ControllerFlags.WRITABLE not in answer.flags
        assert await ping("127.0.0.1", server.port, "other.test") is None


async def test_a_controller_is_asked_over_ipv6_too():
    async with NetlogonServer(SPEC, address="::1", sites={"::1/128": "Six", "127.0.0.0/8": "Four"}) as server:
        answer = await ping("::1", server.port, SPEC.domain)
        assert answer is not None
        assert answer.client_site == "Six"


async def test_a_lost_datagram_is_sent_again():
    async with NetlogonServer(SPEC) as server:
        server.faults.lose = 1
        assert await ping("127.0.0.1", server.port, SPEC.domain, waits_s=(0.1, 5.0)) is not None
        assert server.pings_count == 2


async def test_silence_a_closed_port_and_nonsense_are_errors_that_say_so():
    async with NetlogonServer(SPEC) as server:
        server.faults.silent = True
        with pytest.raises(DiscoveryError, match="does not answer"):
            await ping("127.0.0.1", server.port, SPEC.domain, waits_s=QUICK)
        server.faults.silent = False
        server.faults.nonsense = b"HTTP/1.1 400 Bad Request"
        with pytest.raises(DiscoveryError, match="nonsense"):
            await ping("127.0.0.1", server.port, SPEC.domain, waits_s=QUICK)
        port = server.port
    with pytest.raises(DiscoveryError, match="closed"):
        await ping("127.0.0.1", port, SPEC.domain, waits_s=QUICK)
    with pytest.raises(DiscoveryError, match="cannot be asked"):
        await ping("no address", port, SPEC.domain)


async def test_a_controller_that_stops_says_so():
    async with NetlogonServer(SPEC) as server:
        server.faults.paused = True
        answer = await ping("127.0.0.1", server.port, SPEC.domain)
        assert answer is not None
        assert answer.paused


def answer_of(*, opcode=23, names=b"", version=5, extra=b""):
    return (
        struct.pack("<HHI", opcode, 0, 0x1F3FD) + bytes(16) + names + extra + struct.pack("<IHH", version, 65535, 65535)
    )


NAMES = b"\x01f\x00" + b"\x01d\xc0\x18" + b"\x02dc\xc0\x1b" + b"\x01D\x00" + b"\x03\\\\C\x00" + b"\x00" * 3


async def test_an_address_in_the_answer_is_passed_over():
    answer = parse_netlogon(answer_of(names=NAMES, version=0x1D, extra=b"\x10" + b"\x02" * 16 + b"\x04next\x00"))
    assert (answer.domain_name, answer.controller, answer.netbios_controller) == ("d.f", "dc.d.f", "C")
    assert answer.next_site == "next"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(answer_of(names=NAMES)[:40], id="cut"),
        pytest.param(answer_of(opcode=19, names=NAMES), id="an answer for NT 4"),
        pytest.param(answer_of(names=b"\xc0\x18" * 8), id="a name that points at itself"),
        pytest.param(answer_of(names=b"\xc0\x1a\xc0\x18" * 4), id="two names that point at each other"),
        pytest.param(answer_of(names=b"\x01a\xc0\x18" + b"\x00" * 7), id="a name with a loop behind a label"),
        pytest.param(answer_of(names=b"\xc0\xff" + b"\x00" * 7), id="a pointer out of the answer"),
        pytest.param(answer_of(names=b"\x80a" + b"\x00" * 7), id="a label of another kind"),
        pytest.param(answer_of(names=b"\x3fa" + b"\x00" * 7), id="a label out of the answer"),
        pytest.param(answer_of(names=b"\x01\xff\x00" + b"\x00" * 7), id="no UTF-8"),
        pytest.param(answer_of(names=b"\x01\x1b\x00" + b"\x00" * 7), id="a control character"),
        pytest.param(answer_of(names=b"\x00" * 8), id="no domain"),
        pytest.param(answer_of(names=NAMES, version=0x8, extra=b"\xff"), id="an address out of the answer"),
    ],
)
async def test_hostile_answers_are_refused(data):
    with pytest.raises(WireError):
        parse_netlogon(data)


async def test_a_name_longer_than_dns_allows_is_refused():
    label = b"\x3f" + b"a" * 63
    assert len(read_packed_name(label * 3 + b"\0", 0, 193)[0]) == 191
    with pytest.raises(WireError, match="too long"):
        read_packed_name(label * 5 + b"\0", 0, 321)


@pytest.mark.parametrize(
    "datagram",
    [b"", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80\x00\x00", b"\x30\x03\x02\x01\x07", b"\x02\x01\x07", b"\x30" * 70_000],
)
async def test_datagrams_that_are_no_answer_are_refused(datagram):
    with pytest.raises(WireError):
        parse_reply(datagram, message_id=7)
