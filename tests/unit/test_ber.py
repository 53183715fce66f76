"""LDAP as bytes: every way of writing a length is read, nothing that does not fit passes."""

from __future__ import annotations

import pytest
import sansldap

from msp_sdk.directory import ber
from msp_sdk.directory.ber import Control, Framer
from msp_sdk.directory.connection import encode_search
from msp_sdk.directory.entry_reader import EntryReader
from msp_sdk.errors import WireError

DN = "CN=Ärzte\\, 2,OU=Clinic,DC=corp,DC=example"
ATTRIBUTES = {
    "objectClass": (b"top", b"computer"),
    "objectGUID": (bytes(range(16)),),
    "servicePrincipalName": tuple(b"HOST/srv%03d.corp.example" % number for number in range(40)),
    "description": (b"x" * 200,),
    "empty": (),
}
FOLDED = {name.lower(): values for name, values in ATTRIBUTES.items()}


def windows(tag: int, *parts: bytes) -> bytes:
    """As Windows writes: four bytes of length for everything constructed."""
    inside = b"".join(parts)
    return bytes((tag, 0x84)) + len(inside).to_bytes(4, "big") + inside if tag & 0x20 else ber.encode(tag, inside)


def two(tag: int, *parts: bytes) -> bytes:
    """Two bytes of length for everything."""
    inside = b"".join(parts)
    return bytes((tag, 0x82)) + len(inside).to_bytes(2, "big") + inside


def make_entry(put=ber.encode, attributes=ATTRIBUTES, message_id: int = 1) -> bytes:
    listed = [
        put(0x30, put(4, name.encode()), put(0x31, *(put(4, value) for value in values)))
        for name, values in attributes.items()
    ]
    return put(0x30, put(2, bytes((message_id,))), put(ber.SEARCH_ENTRY, put(4, DN.encode()), put(0x30, *listed)))


def read_one(data: bytes, reader: EntryReader | None = None):
    [message] = Framer().feed(data)
    return (reader or EntryReader()).read(message)


@pytest.mark.parametrize("put", [ber.encode, windows, two], ids=["short", "windows", "two bytes"])
def test_an_entry_is_read_however_its_lengths_are_written(put):
    reader = EntryReader()
    for _ in range(3):
        entry = read_one(make_entry(put), reader)
        assert (entry.dn, entry.attributes) == (DN, FOLDED)


def test_an_entry_that_another_library_wrote_is_read():
    session = sansldap.LDAPServer()
    session.receive(ber.encode_message(5, encode_search("DC=corp", "(objectClass=computer)", ["name"]).operation))
    session._send(
        sansldap.SearchResultEntry(
            5, [], DN, [sansldap.PartialAttribute(name, list(values)) for name, values in ATTRIBUTES.items()]
        )
    )
    assert read_one(session.data_to_send()).attributes == FOLDED


def test_what_was_learnt_from_one_entry_does_not_colour_another():
    reader = EntryReader()
    first = {"a": (b"1",), "b": (b"22", b"22")}
    for attributes in (first, {"b": (b"22",)}, {"a": (b"2", b"3")}, first, {"a": (b"22",)}, {"b": ()}):
        assert read_one(make_entry(windows, attributes), reader).attributes == attributes


def test_messages_are_the_same_however_the_stream_is_chopped():
    stream = make_entry() + make_entry(windows) + make_entry(two)
    whole = Framer().feed(stream)
    assert len(whole) == 3
    for size in (1, 2, 3, 7, 100, 1000):
        framer = Framer()
        pieces = [framer.feed(stream[start : start + size]) for start in range(0, len(stream), size)]
        assert [message for piece in pieces for message in piece] == whole
        assert framer.empty


@pytest.mark.parametrize("length", ["8400ffffff", "84ffffffff", "83ffffff"])
def test_a_message_that_claims_to_be_endless_ends_the_stream_at_once(length):
    with pytest.raises(WireError, match="too long"):
        Framer(limit_bytes=1 << 20).feed(bytes.fromhex("30" + length))


@pytest.mark.parametrize(
    "text",
    [
        "3080",  # a length without an end
        "3085000000000f",  # five bytes of length
        "30ff",
        "0201",
        "16030100",  # TLS
        "48545450",  # HTTP
        "3000",
        "3003020100",
        "30050201010464",
        "3006020180640100",  # a negative number
        "300602010164057e",  # longer than its message
        "3006020101300000",  # no operation
        "30060201016484ff",
    ],
)
def test_what_is_no_message_is_said_to_be_none(text):
    framer = Framer()
    with pytest.raises(WireError):
        framer.feed(bytes.fromhex(text) + b"\0" * 8)


def test_a_long_message_that_trickles_in_is_put_together_once():
    message = make_entry(windows, {"member": tuple(b"x" * 1000 for _ in range(2000))})
    framer = Framer()
    found = [one for at in range(0, len(message), 500) for one in framer.feed(message[at : at + 500])]
    assert len(EntryReader().read(found[0]).values("member")) == 2000


def nest(*lengths: int) -> bytes:
    """An entry with the attribute ``a: b``: lengths of entry, name, list, attribute, type, set, value as given."""
    op, dn, listed, attribute, kind, values, value = lengths
    inside = bytes((0x64, op, 4, dn, 0x78, 0x30, listed, 0x30, attribute, 4, kind, 0x61, 0x31, values, 4, value, 0x62))
    return ber.encode(0x30, b"\x02\x01\x01", inside)


def test_a_length_that_does_not_fit_what_holds_it_is_refused_wherever_it_is():
    right = (15, 1, 10, 8, 1, 3, 1)
    assert read_one(nest(*right)).attributes == {"a": (b"b",)}
    for place in range(len(right)):
        for wrong in set(range(20)) - {right[place]}:
            lengths = (*right[:place], wrong, *right[place + 1 :])
            reader = EntryReader()
            read_one(nest(*right), reader)
            with pytest.raises(WireError):
                read_controls_too(nest(*lengths), reader)


def read_controls_too(data: bytes, reader: EntryReader) -> None:
    for message in Framer().feed(data):
        reader.read(message)
        ber.read_controls(message)


def test_a_range_is_noticed_and_only_there():
    reader = EntryReader()
    read_one(make_entry(attributes={"member;range=0-1": (b"a", b"b")}), reader)
    assert reader.ranged
    read_one(make_entry(), reader)
    assert not reader.ranged


@pytest.mark.parametrize("put", [ber.encode, windows], ids=["short", "windows"])
def test_a_result_is_read_with_its_controls_and_its_token(put):
    paged = put(0x30, put(2, b"\0"), put(4, b"cookie"))
    dirsync = put(0x30, put(2, b"\x01"), put(2, b"\0"), put(4, b"next"))
    controls = put(
        0xA0,
        put(0x30, put(4, ber.PAGED_RESULTS.encode()), put(4, paged)),
        put(0x30, put(4, ber.DIRSYNC.encode()), put(1, b"\xff"), put(4, dirsync)),
        put(0x30, put(4, b"1.2.3")),
    )
    referral = put(0xA3, put(4, b"ldap://elsewhere"))
    result = put(0x61, put(10, b"\x31"), put(4, b"DC=x"), put(4, b"data 52e\0"), referral, put(0x87, b"token"))
    [message] = Framer().feed(put(0x30, put(2, b"\x03"), result, controls))
    read = ber.read_result(message)
    assert (read.code, read.matched_dn, read.sasl_credentials) == (49, "DC=x", b"token")
    assert read.described == "invalidCredentials data 52e"
    assert read.controls[1:] == (Control(ber.DIRSYNC, critical=True, value=dirsync), Control("1.2.3"))
    assert ber.read_paged(read.controls[0].value) == b"cookie"
    assert ber.read_dirsync_value(read.controls[1].value) == (True, b"next")


def test_a_notice_of_disconnection_is_told_by_its_name():
    inside = ber.encode(0x0A, b"\x34"), ber.encode_text(""), ber.encode_text("bye")
    name = ber.encode(0x8A, ber.NOTICE_OF_DISCONNECTION.encode())
    [message] = Framer().feed(ber.encode_message(0, ber.encode(ber.EXTENDED_RESPONSE, *inside, name)))
    assert (message.message_id, ber.read_result(message).name) == (0, ber.NOTICE_OF_DISCONNECTION)


@pytest.mark.parametrize("value", [None, b"", b"\x30\0", b"\x30\x05\x02\x01\0\x04\x01", b"\x30\x05\x02\x01\0\x04\0\0"])
def test_a_cookie_that_is_none_is_refused(value):
    with pytest.raises(WireError):
        ber.read_paged(value)


def test_requests_are_read_by_another_library_as_they_were_meant():
    server = sansldap.LDAPServer()
    control = ber.paged_control(500, b"cookie")
    [bind] = server.receive(ber.encode_message(300, ber.encode_sasl_bind("GSS-SPNEGO", b"token" * 100), [control]))
    assert (bind.message_id, bind.authentication.mechanism) == (300, "GSS-SPNEGO")
    assert bind.authentication.credentials == b"token" * 100
    [paged] = bind.controls
    assert (paged.critical, paged.size, paged.cookie) == (True, 500, b"cookie")
    [extended] = sansldap.LDAPServer().receive(ber.encode_message(1, ber.encode_extended(ber.START_TLS)))
    assert extended.name == ber.START_TLS


def test_numbers_keep_their_sign():
    assert [ber.encode_number(number).hex() for number in (0, 127, 128, 255, 256, -1)] == [
        "020100",
        "02017f",
        "02020080",
        "020200ff",
        "02020100",
        "0201ff",
    ]
