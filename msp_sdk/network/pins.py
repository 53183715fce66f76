"""Certificates: their digests, whom we trust, and the TLS contexts that come of it.

A certificate is trusted when a CA that was given verifies it for the name that was meant, or when its digest was
listed by somebody who has seen it. Nothing is trusted by itself, and nothing is learnt on first use.

Example:
    >>> parse_sha256("AB:" * 31 + "AB")[:4]
    'abab'
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Iterable
from typing import Self

from attrs import frozen

from msp_sdk.errors import ConfigError
from msp_sdk.models.credential import TrustedCertificate

_SHA256 = re.compile(r"[0-9a-f]{64}")


def digest_of_der(der: bytes) -> str:
    """SHA-256 over a certificate's DER, lower-case hex."""
    return hashlib.sha256(der).hexdigest()


def parse_sha256(text: str) -> str:
    """Read a digest as people paste it: either case, with colons or spaces or without.

    Raises:
        ConfigError: It is not 64 hex digits. Not retryable.
    """
    digest = re.sub(r"[:\s]", "", text).lower()
    if not _SHA256.fullmatch(digest):
        raise ConfigError(
            "a certificate's digest has 64 hex digits.",
            code="bad-digest",
            remedy="Copy the SHA-256 of the certificate.",
        )
    return digest


@frozen
class Trust:
    """Which certificates may see a password.

    Attributes:
        digests: SHA-256 over the DER of listed certificates. A listed one needs no matching name.
        ca_pems: PEM of CAs; what they sign must carry the host's name and be valid in time.
    """

    digests: frozenset[str] = frozenset()
    ca_pems: tuple[str, ...] = ()

    @classmethod
    def of(cls, listed: Iterable[TrustedCertificate], *, ca_pems: Iterable[str] = ()) -> Self:
        """Build it from a credential's list and a site's CAs.

        Raises:
            ConfigError: A digest is none. Not retryable.
        """
        entries = tuple(listed)
        return cls(
            frozenset(parse_sha256(entry.sha256) for entry in entries if entry.sha256),
            (*(entry.ca_pem for entry in entries if entry.ca_pem), *ca_pems),
        )

    def lists(self, der: bytes) -> bool:
        """True if the certificate's digest is listed."""
        return digest_of_der(der) in self.digests


def seeing_context() -> ssl.SSLContext:
    """A context that shows a certificate and trusts nothing: check the digest before anything secret is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def verifying_context(ca_pems: Iterable[str]) -> ssl.SSLContext:
    """A context that lets only certificates of these CAs pass, for the name that is asked for.

    The system's CAs are left out: a public CA has no say about a customer's controllers.

    Raises:
        ConfigError: There is no CA, or one is no PEM. Not retryable.
    """
    pems = [pem for pem in ca_pems if pem.strip()]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # An issuing CA may be listed without its root; companies' CAs often miss what RFC 5280 asks of them.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        for pem in pems:
            context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError("a trusted CA is not a PEM certificate.", code="bad-ca") from error
    if not pems or not context.get_ca_certs():
        raise ConfigError("there is no CA to verify with.", code="bad-ca")
    return context
