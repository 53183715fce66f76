"""Whom we trust: digests as people paste them, CAs as they come."""

from __future__ import annotations

import pytest

from msp_sdk.errors import ConfigError
from msp_sdk.models.credential import TrustedCertificate
from msp_sdk.network.pins import Trust, digest_of_der, parse_sha256, verifying_context
from msp_sdk.testing.certificates import EstateCA

CA = EstateCA.make("Northvalley CA")
ISSUED = CA.issue(["dc1.northvalley.test"], ["127.0.0.1"])


def test_a_digest_is_read_with_colons_spaces_and_capitals():
    pasted = ":".join(ISSUED.sha256[start : start + 2] for start in range(0, 64, 2)).upper() + " \n"
    assert parse_sha256(pasted) == ISSUED.sha256 == digest_of_der(ISSUED.der)


@pytest.mark.parametrize("text", ["", "abc", "g" * 64, "ab" * 20, "ab" * 33])
def test_what_is_no_sha256_is_a_clear_error(text):
    with pytest.raises(ConfigError, match="64 hex digits"):
        parse_sha256(text)


def test_trust_takes_digests_and_cas_from_a_credential_and_cas_from_the_site():
    listed = (TrustedCertificate(sha256=ISSUED.sha256.upper()), TrustedCertificate(ca_pem=CA.pem.decode()))
    trust = Trust.of(listed, ca_pems=["SITE"])
    assert trust == Trust(frozenset({ISSUED.sha256}), (CA.pem.decode(), "SITE"))
    assert trust.lists(ISSUED.der)
    assert not Trust.of(()).lists(ISSUED.der)


@pytest.mark.parametrize("pems", [(), ("",), ("no certificate",), ("-----BEGIN CERTIFICATE-----\nAA==\n",)])
def test_a_ca_that_is_none_is_a_clear_error_and_never_trusts_everybody(pems):
    with pytest.raises(ConfigError):
        verifying_context(pems)


def test_a_verifying_context_knows_the_given_cas_alone():
    context = verifying_context([CA.pem.decode()])
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
