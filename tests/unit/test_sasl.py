"""The sealed layer over a socket: frames that are cut, joined, too long, forged or in clear."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest
import spnego
from hypothesis import given
from hypothesis import strategies as st

from msp_sdk.directory.connection import translate
from msp_sdk.directory.doors import Door
from msp_sdk.directory.sasl import MAX_FRAME_BYTES, KerberosLayer, NtlmLogon, SealedSocket, Sealer, read_offer
from msp_sdk.errors import DirectoryError, WireError
from msp_sdk.models.domain import DomainController
from msp_sdk.secret import Secret

KEY = 0x5A


def cipher(data):
    return bytes(byte ^ KEY for byte in data)


def wrap(data):
    """A signed and sealed token, as far as the layer can tell."""
    return b"SEAL" + cipher(data)


def unwrap(data):
    if not data.startswith(b"SEAL"):
        raise WireError("a sealed frame does not open.")
    return cipher(data[4:])


def framed(token):
    return struct.pack(">I", len(token)) + token


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    sealed = SealedSocket(ours, Sealer(wrap, unwrap, 1000))
    sealed.settimeout(5)
    yield sealed, theirs
    sealed.close()
    theirs.close()


def read(sealed, count):
    got = b""
    while len(got) < count:
        got += sealed.recv(262_144)
    return got


class Chopped:
    """A socket whose bytes come in pieces of given sizes."""

    def __init__(self, data, sizes):
        self._data = data
        self._sizes = sizes

    def recv(self, size, /):
        count = min(size, self._sizes.pop() if self._sizes else 1)
        piece, self._data = self._data[:count], self._data[count:]
        return piece

    def sendall(self, data, /):
        raise NotImplementedError

    def settimeout(self, value, /):
        pass

    def close(self):
        pass


@given(
    parts=st.lists(st.binary(max_size=60), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 50), max_size=40),
    take=st.integers(1, 70),
)
def test_content_is_the_same_however_frames_are_cut_and_joined(parts, sizes, take):
    wire = b"".join(framed(wrap(part)) for part in parts)
    sealed = SealedSocket(Chopped(wire, sizes), Sealer(wrap, unwrap, 1000))
    got = b""
    while piece := sealed.recv(take):
        assert len(piece) <= take
        got += piece
    assert got == b"".join(parts)


def test_what_is_sent_is_sealed_in_frames_that_the_peer_takes(pair):
    sealed, theirs = pair
    content = bytes(range(256)) * 10
    sealed.sendall(content)
    theirs.settimeout(5)
    opened = b""
    while len(opened) < len(content):
        length = int.from_bytes(theirs.recv(4, socket.MSG_WAITALL), "big")
        assert length <= 1004
        opened += unwrap(theirs.recv(length, socket.MSG_WAITALL))
    assert opened == content


@pytest.mark.parametrize(
    "wire",
    [
        struct.pack(">I", MAX_FRAME_BYTES + 1),
        struct.pack(">I", 0),
        b"\xff\xff\xff\xff",
        framed(b"0\x0c in clear"),
        b"0\x84\x00\x00\x00\x10",
    ],
)
def test_a_frame_that_is_too_long_empty_forged_or_in_clear_is_refused(pair, wire):
    sealed, theirs = pair
    theirs.sendall(wire)
    with pytest.raises(WireError):
        sealed.recv(1000)


def test_a_peer_that_closes_is_told_from_one_that_breaks_off_in_a_frame(pair):
    sealed, theirs = pair
    theirs.sendall(framed(wrap(b"whole")) + framed(wrap(b"half"))[:6])
    assert read(sealed, 5) == b"whole"
    theirs.close()
    with pytest.raises(ConnectionResetError):
        sealed.recv(1000)


def test_the_end_between_two_frames_is_an_end(pair):
    sealed, theirs = pair
    theirs.close()
    assert sealed.recv(1000) == b""


def test_a_peer_that_trickles_meets_the_deadline_of_one_call(pair):
    sealed, theirs = pair
    sealed.settimeout(0.3)
    over = threading.Event()

    def trickle():
        for byte in framed(wrap(b"x" * 900)):
            if over.wait(0.05):
                return
            theirs.sendall(bytes([byte]))

    thread = threading.Thread(target=trickle)
    thread.start()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        sealed.recv(1000)
    over.set()
    thread.join()
    assert time.monotonic() - started < 20


def test_an_offer_without_encryption_is_refused():
    assert read_offer(b"\x07\x0a\x00\x00") == 0x0A0000
    for content in (b"\x01\xff\xff\xff", b"\x02\xff\xff\xff", b"\x03\xff\xff\xff", b"", b"\x04\xff\xff", b"\x04\0\0\0"):
        with pytest.raises(DirectoryError) as caught:
            read_offer(content)
        assert caught.value.code == "encryption-refused"


def hashes_of(value, seen):
    """Whether something below a value is called a hash of a password."""
    if id(value) in seen or isinstance(value, type) or not hasattr(value, "__dict__"):
        return []
    seen.add(id(value))
    named = [name for name, held in vars(value).items() if "hash" in name.lower() and held]
    return named + [name for held in vars(value).values() for name in hashes_of(held, seen)]


def test_ntlm_keeps_nothing_of_the_password_after_its_last_token(tmp_path, monkeypatch):
    (tmp_path / "users").write_text("CORP:svc:hunter2-hunter2\n")
    monkeypatch.setenv("NTLM_USER_FILE", str(tmp_path / "users"))
    logon = NtlmLogon(r"CORP\svc", Secret("hunter2-hunter2"), "dc1.corp.example")
    server = spnego.server(protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
    assert hashes_of(logon, set())
    challenge = server.step(logon.first())
    assert logon.second(challenge).startswith(b"NTLMSSP\0\3")
    assert hashes_of(logon, set()) == []
    assert logon.sealer().wrap(b"content")


class EndedContext:
    """A security context after its ticket's end, as the library tells it."""

    def wrap(self, *_):
        raise gssapi_exceptions().ExpiredContextError(786432, 0)

    unwrap = wrap


def gssapi_exceptions():
    return pytest.importorskip("gssapi.exceptions")


def test_a_context_that_has_ended_is_a_broken_connection_and_no_nonsense():
    layer = KerberosLayer.__new__(KerberosLayer)
    layer._context = EndedContext()
    layer._failure = gssapi_exceptions().GSSError
    layer._expired = gssapi_exceptions().ExpiredContextError
    for work in (layer._wrap, layer._unwrap):
        with pytest.raises(ConnectionAbortedError) as caught:
            work(b"content")
        error = translate(caught.value, DomainController("dc1.corp.example"), Door("kerberos", "127.0.0.1", 389))
        assert (error.code, error.retryable) == ("unreachable-controller", True)


@pytest.mark.parametrize("challenge", [b"", b"NTLMSSP\0", b"NTLMSSP\0\2" + b"\0" * 60, b"\xff" * 24])
def test_ntlm_answers_no_challenge_that_is_weak_or_none(challenge):
    logon = NtlmLogon("svc@corp.example", Secret("secret"), "dc1.corp.example")
    assert logon.first().startswith(b"NTLMSSP\0\1")
    with pytest.raises(DirectoryError) as caught:
        logon.second(challenge)
    assert caught.value.code == "encryption-refused"
    assert "secret" not in repr(logon) + str(caught.value)
