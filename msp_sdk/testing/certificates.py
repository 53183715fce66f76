"""A small certificate authority for an estate: certificates for LDAPS, StartTLS, WinRM over HTTPS and signed programs.

It makes what a company's own CA makes: a self-signed root and server certificates with names and addresses in
``subjectAltName``. Keys are P-256, since they are made in a millisecond.

It does not prove that we cope with what the field has beyond that: chains with intermediates, revocation, RSA keys
of 1,024 bits, certificates without ``subjectAltName`` (see :meth:`EstateCA.issue` with no names), smart-card templates.

Example:
    >>> ca = EstateCA.make("Northvalley CA")
    >>> issued = ca.issue(["dc1.northvalley.test"], ["127.77.0.1"])
    >>> len(issued.sha256)
    64
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID_DAYS = 365
_COMMON_NAME_MAX = 64


@frozen
class _Signed:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


class IssuedCertificate:
    """A certificate and its key. It is signed when it is first asked for: a whole site of them costs little.

    Two are equal if they are one.
    """

    def __init__(self, sign: Callable[[], _Signed]) -> None:
        self._sign = sign

    @cached_property
    def _signed(self) -> _Signed:
        return self._sign()

    @cached_property
    def cert_pem(self) -> bytes:
        """The certificate as PEM."""
        return self._signed.certificate.public_bytes(serialization.Encoding.PEM)

    @cached_property
    def key_pem(self) -> bytes:
        """The key as PEM, without a password."""
        return self._signed.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @cached_property
    def der(self) -> bytes:
        """The certificate as DER."""
        return self._signed.certificate.public_bytes(serialization.Encoding.DER)

    @cached_property
    def sha256(self) -> str:
        """Over the DER, lower-case hex."""
        return hashlib.sha256(self.der).hexdigest()

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write ``name.pem`` and ``name.key`` with mode 0600 and return both paths."""
        return write_private(folder / f"{name}.pem", self.cert_pem), write_private(folder / f"{name}.key", self.key_pem)

    def server_context(self) -> ssl.SSLContext:
        """A TLS context for a server that shows this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with TemporaryDirectory(prefix="msp-tls-") as folder:
            cert, key = self.write(Path(folder), "server")
            context.load_cert_chain(cert, key)
        return context

    def late_context(self) -> ssl.SSLContext:
        """As :meth:`server_context`, but nothing is signed or read before the first client says hello."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made: list[ssl.SSLContext] = []

        def said_hello(session: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            if not made:
                made.append(self.server_context())
            session.context = made[0]

        context.sni_callback = said_hello
        return context


class EstateCA:
    """A root and what it signs. Make one with :meth:`make`."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def make(cls, name: str) -> Self:
        """Make a new root with this common name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        certificate = (
            _builder(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @property
    def pem(self) -> bytes:
        """The root as PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def sha256(self) -> str:
        """SHA-256 over the root's DER, lower-case hex."""
        return _digest(self._certificate)

    def issue(
        self, names: Sequence[str], addresses: Sequence[str] = (), *, until: datetime | None = None
    ) -> IssuedCertificate:
        """A server certificate, signed when it is first asked for.

        Args:
            names: DNS names, the first one also as common name; with none (and no address) the certificate has no
                ``subjectAltName``, like the one that Samba makes for itself.
            addresses: IP addresses that it is valid for too.
            until: When it expires; in a year when it is left out. It may be past.
        """
        subject = names[0] if names else "server"
        alternatives = _alternatives(names, addresses)
        return IssuedCertificate(lambda: self._sign(subject, ExtendedKeyUsageOID.SERVER_AUTH, alternatives, until))

    def issue_signer(self, publisher: str) -> IssuedCertificate:
        """A certificate that signs programs and packages (Authenticode), for a publisher of this name."""
        return IssuedCertificate(lambda: self._sign(publisher, ExtendedKeyUsageOID.CODE_SIGNING, [], None))

    def _sign(
        self, subject: str, purpose: x509.ObjectIdentifier, names: Sequence[x509.GeneralName], until: datetime | None
    ) -> _Signed:
        key = ec.generate_private_key(ec.SECP256R1())
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = _leaf(
            _builder(_name(subject), self._certificate.subject, key.public_key(), until), key, purpose, names
        )
        return _Signed(builder.add_extension(identifier, critical=False).sign(self._key, hashes.SHA256()), key)


def issue_self_signed(names: Sequence[str], addresses: Sequence[str] = ()) -> IssuedCertificate:
    """A server certificate signed by its own key, as ``winrm quickconfig`` and many an administrator make one."""

    def sign() -> _Signed:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(names[0] if names else "server")
        alternatives = _alternatives(names, addresses)
        builder = _leaf(_builder(name, name, key.public_key()), key, ExtendedKeyUsageOID.SERVER_AUTH, alternatives)
        return _Signed(builder.sign(key, hashes.SHA256()), key)

    return IssuedCertificate(sign)


def write_private(path: Path, content: bytes) -> Path:
    """Write a file that only its owner reads (0600), and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
    return path


def _digest(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_COMMON_NAME_MAX])])


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, until: datetime | None = None
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = until or now + timedelta(days=_VALID_DAYS)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # An hour back: the clocks of an estate differ.
        .not_valid_before(min(now, end) - timedelta(hours=1))
        .not_valid_after(end)
    )


def _leaf(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    purpose: x509.ObjectIdentifier,
    names: Sequence[x509.GeneralName],
) -> x509.CertificateBuilder:
    """A certificate that signs no others."""
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False) if names else builder


def _alternatives(names: Sequence[str], addresses: Sequence[str]) -> list[x509.GeneralName]:
    dns: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    return dns + [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
