"""What answers may be anything: broken, hostile, another protocol, slow on purpose; each is an error of ours."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import os
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import spnego
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from msp_sdk import errors
from msp_sdk.secret import Secret
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.wsman import HostsThread
from msp_sdk.testing.wsman_faults import TROUBLES
from msp_sdk.windows.channel import Channel, Place, Trust, names_in
from msp_sdk.windows.doors import Door, HostPolicy
from msp_sdk.windows.ntlm import NtlmLogon
from msp_sdk.windows.scripts import load
from msp_sdk.windows.shell import ShellOptions
from msp_sdk.windows.transport import FencedTransport

ADDRESS = take_address()


@pytest.fixture
def lab(tmp_path: Path) -> HostLab:
    return HostLab(tmp_path)


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket], None], port: int = 5985) -> Iterator[list[bytes]]:
    """A server that reads something of each connection, and then does what ``answer`` does."""
    heard: list[bytes] = []
    listener = socket.create_server((ADDRESS, port))

    def one(client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), client:
            heard.append(client.recv(65536))
            answer(client)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def says(data: bytes) -> Callable[[socket.socket], None]:
    return lambda client: client.sendall(data)


def status(line: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {line}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def knock(lab: HostLab, **target: object) -> errors.MspError:
    host = lab.host(https=False)
    options = ShellOptions(threads=2, connect_s=0.5, quiet_s=1.0)
    with pytest.raises(errors.MspError) as caught:
        lab.run(
            lab.target(host, ip_addresses=(ADDRESS,), doors=(5985,), **target),
            lab.local_credential(),
            load("identify"),
            options=options,
        )
    return caught.value


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "connection-lost"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "connection-lost"),
        (b"\x00" * 5000, "connection-lost"),
        (b"HTTP/1.1 401 " + b"x" * 100_000, "connection-lost"),
        (b"HTTP/1.1 401 U\r\n" + b"X: y\r\n" * 1000, "connection-lost"),
        (status("401 Unauthorized"), "encryption-refused"),
        (
            status("401 U").replace(b"\r\n\r\n", b"\r\nWWW-Authenticate: Basic realm=WSMAN\r\n\r\n"),
            "encryption-refused",
        ),
        (status("200 OK", b"<html>a router</html>"), "encryption-refused"),
        (status("302 Found"), "windows-failed"),
        (status("404 Not Found"), "winrm-closed"),
        (status("503 Service Unavailable"), "winrm-closed"),
        (b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy", "winrm-closed"),
        (status("413 Too Large"), "too-large"),
        (status("500 Error"), "windows-failed"),
    ],
)
def test_strange_answer_is_an_error_of_ours_and_no_strike(lab: HostLab, data: bytes, code: str) -> None:
    with serving(says(data)) as heard:
        assert knock(lab).code == code
    # Nothing of an account was said beyond the first message, which names none, and the ledger knows of no attempt.
    tokens = [base64.b64decode(line.split()[-1]) for line in _authorisations(heard)]
    assert all(token[8:12] == b"\1\0\0\0" and b"admin" not in token for token in tokens)
    with lab.ledger.attempt(lab.local_credential(), place="host", host="x") as attempt:
        attempt.not_sent()


def _authorisations(heard: list[bytes]) -> list[bytes]:
    return [line for data in heard for line in data.split(b"\r\n") if line.lower().startswith(b"authorization")]


def test_host_that_answers_a_byte_at_a_time_does_not_hold_us(lab: HostLab) -> None:
    # A socket's timeout begins anew with each byte: without an end for the whole answer this one took for ever.
    def drip(client: socket.socket) -> None:
        for _ in range(300):
            client.sendall(b"H")
            time.sleep(0.1)

    begun = time.monotonic()
    with serving(drip):
        assert knock(lab).code in ("no-answer", "connection-lost")
    assert time.monotonic() - begun < 8


@pytest.mark.parametrize("name", ["srv 1", "srv\r\nX: y", "-", "a..b", "x" * 80, "srv-ä", ".", "<script>"])
def test_name_that_is_a_strangers_text_is_no_crash(lab: HostLab, name: str) -> None:
    with serving(says(status("503 Service Unavailable"))) as heard:
        assert knock(lab, hostname=name, fqdn=name).code == "winrm-closed"
    assert heard
    assert all(f"Host: {ADDRESS}:5985".encode() in data for data in heard)


@pytest.mark.parametrize("name", ["srv 1", "a..b", "x" * 80, "srv-ä", ".", "<script>", "::1", "fe80::1%lo"])
def test_name_that_is_no_name_of_dns_is_no_crash_over_tls(lab: HostLab, name: str) -> None:
    host = lab.host(http=False)
    with HostsThread([host]), pytest.raises(errors.WrongHostError):
        lab.run(lab.target(host, hostname=name, fqdn=None), lab.local_credential(), load("identify"))
    assert host.logon_count == 0


def test_dead_first_address_is_passed_by(lab: HostLab) -> None:
    host = lab.host()
    with HostsThread([host]):
        target = lab.target(host, ip_addresses=(take_address(), host.address))
        assert lab.run(target, lab.local_credential(), load("identify"))


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
def test_address_of_ipv6_is_connected_to(lab: HostLab) -> None:
    host = lab.host(https=False)
    host.address = "::1"
    with HostsThread([host]):
        assert lab.run(lab.target(host), lab.local_credential(), load("identify"))


def test_answer_without_end_is_cut_off(lab: HostLab) -> None:
    def flood(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
        while True:
            client.sendall(b"x" * 100_000)

    with serving(flood):
        assert knock(lab).code == "windows-failed"


def test_door_that_opened_since_the_probe_is_found(lab: HostLab) -> None:
    # Lesson 36.
    host = lab.host(http=False)
    with HostsThread([host]):
        assert lab.run(lab.target(host, doors=(5985,)), lab.local_credential(), load("identify"))


class Shown:
    """A certificate as Windows' own tools make one: signed by itself. With negative ``days`` it has expired."""

    def __init__(self, folder: Path, names: list[x509.GeneralName], common_name: str = "SRV1", days: int = 1) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
        end = datetime.now(UTC) + timedelta(days=days)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        builder = builder.serial_number(7).not_valid_before(end - timedelta(days=2)).not_valid_after(end)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        certificate = builder.sign(key, hashes.SHA256())
        self.der = certificate.public_bytes(serialization.Encoding.DER)
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.sha256 = hashlib.sha256(self.der).hexdigest()
        file = folder / "shown.pem"
        file.write_bytes(
            self.pem
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(file)


def connect_tls(
    names: tuple[str, ...], trust: Trust, *, shown: Shown | None = None, data: bytes | None = None
) -> errors.MspError | None:
    """What comes of a connection over TLS to a host that is called ``names``; None when it was made."""
    listener = socket.create_server((ADDRESS, 5986))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with contextlib.suppress(OSError), client:
                    if shown is not None:
                        with shown.context.wrap_socket(client, server_side=True) as tls:
                            tls.recv(1)
                    elif data:
                        client.recv(100)
                        client.sendall(data)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        Channel.connect(Place(ADDRESS, Door(5986, tls=True), names[0], names, trust), 2.0).close()
    except errors.MspError as error:
        return error
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
    return None


def test_certificate_that_expired_is_told_as_expired(tmp_path: Path) -> None:
    shown = Shown(tmp_path, [x509.DNSName("srv1.corp.example")], days=-1)
    error = connect_tls(("srv1.corp.example",), Trust((shown.pem.decode(),)), shown=shown)
    assert error is not None
    assert error.code == "certificate-expired"
    assert "expired" in error.detail


def test_certificate_of_a_stranger_is_told_as_such_with_its_digest(tmp_path: Path) -> None:
    shown = Shown(tmp_path, [x509.DNSName("srv1.corp.example")])
    error = connect_tls(("srv1.corp.example",), Trust(), shown=shown)
    assert error is not None
    assert (error.code, error.context["sha256"]) == ("certificate-untrusted", shown.sha256)
    assert "self-signed" in error.detail


@pytest.mark.parametrize(
    ("common_name", "names", "called"),
    [
        ("srv1.corp.example", [], "srv1.corp.example"),
        ("x", [x509.IPAddress(ipaddress.ip_address("10.0.0.5"))], "10.0.0.5"),
        ("x", [x509.IPAddress(ipaddress.ip_address("2001:db8::5"))], "2001:db8::5"),
    ],
)
def test_certificate_with_only_a_common_name_or_an_address_is_good_for_it(
    tmp_path: Path, common_name: str, names: list[x509.GeneralName], called: str
) -> None:
    shown = Shown(tmp_path, names, common_name)
    assert connect_tls((called,), Trust((shown.pem.decode(),)), shown=shown) is None


def test_listed_certificate_is_enough_where_only_an_address_is_known_and_never_replaces_a_name(tmp_path: Path) -> None:
    shown = Shown(tmp_path, [], "SRV1")
    listed = Trust(listed_sha256=frozenset({shown.sha256}))
    assert connect_tls(("10.0.0.5",), listed, shown=shown) is None
    error = connect_tls(("srv2.corp.example",), listed, shown=shown)
    assert isinstance(error, errors.WrongHostError)
    # By a CA alone an address is not a name that the certificate holds.
    assert isinstance(connect_tls(("10.0.0.5",), Trust((shown.pem.decode(),)), shown=shown), errors.WrongHostError)


@pytest.mark.parametrize(
    ("data", "code"),
    [(None, "connection-lost"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "encryption-refused")],
)
def test_port_without_tls_is_told_apart_from_one_that_hangs_up(data: bytes | None, code: str) -> None:
    error = connect_tls(("srv1.corp.example",), Trust(), data=data)
    assert error is not None
    assert error.code == code


def test_certificate_that_cannot_be_read_is_an_error_of_ours(tmp_path: Path) -> None:
    der = Shown(tmp_path, [x509.DNSName("srv1")]).der
    randomly = random.Random(7)  # noqa: S311 (to break things, the same way each time)
    for _ in range(2000):
        broken = bytearray(der)
        for _ in range(3):
            broken[randomly.randrange(len(broken))] = randomly.randrange(256)
        with contextlib.suppress(errors.EncryptionRefusedError):
            names_in(bytes(broken))


def challenge(change: Callable[[bytearray], None], folder: Path) -> bytes:
    """A real challenge, changed by whoever sits in between."""
    file = folder / "users"
    file.write_text("CORP:svc:secret\n")
    before = os.environ.get("NTLM_USER_FILE")
    os.environ["NTLM_USER_FILE"] = str(file)
    try:
        server = spnego.server(protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
        token = bytearray(server.step(logon().first()) or b"")
    finally:
        del os.environ["NTLM_USER_FILE"]
        if before is not None:
            os.environ["NTLM_USER_FILE"] = before
    change(token)
    return bytes(token)


def logon() -> NtlmLogon:
    return NtlmLogon("CORP\\svc", "srv1", None)


@pytest.mark.parametrize("flag", [0x10, 0x20, 0x80000, 0x20000000, 0x40000000])
def test_challenge_that_asks_for_weak_sealing_is_refused_before_the_password_is_used(tmp_path: Path, flag: int) -> None:
    # Whoever sits in between could ask for keys of 40 bits, say yes to any logon, and read what we seal.
    def weaken(token: bytearray) -> None:
        (flags,) = struct.unpack_from("<I", token, 20)
        struct.pack_into("<I", token, 20, flags & ~flag)

    attempt = logon()
    attempt.first()
    with pytest.raises(errors.EncryptionRefusedError):
        attempt.second(challenge(weaken, tmp_path), Secret("secret"))


def test_nothing_as_good_as_the_password_is_kept_with_a_connection(tmp_path: Path) -> None:
    made = logon()
    made.first()
    made.second(challenge(lambda _: None, tmp_path), Secret("secret"))
    assert made._context._credential is None


def test_a_password_outside_tls_is_stopped_at_the_last_fence_too() -> None:
    # Lesson 33.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(Place("127.0.0.1", Door(5985, tls=False), "srv1", ("srv1",)), ours, None)
        with pytest.raises(errors.EncryptionRefusedError):
            FencedTransport(channel).present("Basic", b"admin:secret")
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


def test_an_answer_in_clear_is_not_believed_where_messages_are_sealed(lab: HostLab) -> None:
    # Lesson 34: whoever stands between could have written it.
    host = lab.host(https=False)
    TROUBLES["unsealed"].once(host)
    with HostsThread([host]), pytest.raises(errors.EncryptionRefusedError):
        lab.run(lab.target(host), lab.local_credential(), load("identify"))


def test_broken_challenge_is_an_error_of_ours(tmp_path: Path) -> None:
    whole = challenge(lambda _: None, tmp_path)
    randomly = random.Random(1)  # noqa: S311 (as above)
    for _ in range(300):
        broken = bytearray(whole)
        for _ in range(randomly.randint(1, 6)):
            broken[randomly.randrange(len(broken))] = randomly.randrange(256)
        attempt = logon()
        attempt.first()
        with contextlib.suppress(errors.MspError):
            attempt.second(bytes(broken[: randomly.randint(1, len(broken))]), Secret("secret"))


@pytest.mark.parametrize("username", ["CORP\\Jürgen", "jürgen@corp.example", "CORP\\администратор"])
def test_names_and_passwords_in_any_script_log_on(lab: HostLab, username: str) -> None:
    password = "Пароль-密码-ß😀"
    lab.service.username = username.rpartition("\\")[2].partition("@")[0]
    lab.service.password = password
    host = lab.host(https=False)
    credential = lab.domain_credential(password, username=username)
    lab.prove(credential)
    with HostsThread([host]):
        lab.run(lab.target(host), credential, load("identify"), policy=HostPolicy(allow_ntlm=True))
