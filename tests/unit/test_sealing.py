"""An envelope opens for one device and one purpose, or not at all."""

from __future__ import annotations

import pytest
from attrs import evolve
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from msp_sdk.errors import UnsupportedVersionError, WireError
from msp_sdk.models.credential import SealedSecret
from msp_sdk.secret import Secret
from msp_sdk.security.sealing import SealContext, api_key_context, key_id, open_sealed, seal
from msp_sdk.wire.converter import dumps, loads, structure

PASSWORD = Secret("pässwörd-'\"$`")
CONTEXT = SealContext(
    "partner-1", "site-1", "site-1-00:11", "cred-1", 3, "service_account", "svc@corp.example", "corp.example"
)
DEVICE = X25519PrivateKey.generate()
PUBLIC = DEVICE.public_key().public_bytes_raw()


def test_an_envelope_opens_for_its_device():
    assert open_sealed(seal(PASSWORD, PUBLIC, CONTEXT), DEVICE, CONTEXT) == PASSWORD


def test_an_envelope_survives_the_wire():
    sealed = structure(loads(dumps(seal(PASSWORD, PUBLIC, CONTEXT))), SealedSecret)
    assert open_sealed(sealed, DEVICE, CONTEXT) == PASSWORD


def test_the_same_secret_is_sealed_differently_each_time():
    assert seal(PASSWORD, PUBLIC, CONTEXT).blob != seal(PASSWORD, PUBLIC, CONTEXT).blob


def test_neither_envelope_nor_key_id_contains_the_secret():
    sealed = seal(PASSWORD, PUBLIC, CONTEXT)
    assert PASSWORD.reveal().encode() not in sealed.blob
    assert PASSWORD.reveal() not in repr(sealed)


def test_the_info_is_laid_out_as_the_protocol_says():
    """An independent reading of the protocol's page opens what we sealed."""
    parts = (
        "partner-1",
        "site-1",
        "site-1-00:11",
        key_id(PUBLIC),
        "cred-1",
        "3",
        "service_account",
        "svc@corp.example",
        "corp.example",
    )
    info = b"msp-seal-v1" + b"".join(bytes([0, len(part)]) + part.encode() for part in parts)
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    assert suite.decrypt(seal(PASSWORD, PUBLIC, CONTEXT).blob, DEVICE, info=info).decode() == PASSWORD.reveal()


@pytest.mark.parametrize(
    "change",
    [
        {"partner_id": "partner-2"},
        {"site_id": "site-2"},
        {"appliance_id": "site-1-00:12"},
        {"credential_id": "cred-2"},
        {"version": 4},
        {"type": "domain_admin"},
        {"username": "administrator@corp.example"},
        {"place": "other.example"},
        # The same letters over another boundary: lengths keep the parts apart.
        {"partner_id": "partner-1s", "site_id": "ite-1"},
    ],
)
def test_an_envelope_for_something_else_does_not_open(change):
    with pytest.raises(WireError) as caught:
        open_sealed(seal(PASSWORD, PUBLIC, CONTEXT), DEVICE, evolve(CONTEXT, **change))
    assert caught.value.code in {"sealed-elsewhere", "sealed-broken"}
    assert not caught.value.retryable


def test_an_envelope_whose_labels_were_rewritten_does_not_open():
    sealed = seal(PASSWORD, PUBLIC, CONTEXT)
    higher = evolve(CONTEXT, version=4)
    with pytest.raises(WireError) as caught:
        open_sealed(evolve(sealed, version=4), DEVICE, higher)
    assert caught.value.code == "sealed-broken"


def test_an_envelope_for_another_device_does_not_open():
    other = X25519PrivateKey.generate()
    sealed = seal(PASSWORD, PUBLIC, CONTEXT)
    with pytest.raises(WireError) as caught:
        open_sealed(sealed, other, CONTEXT)
    assert caught.value.code == "sealed-elsewhere"
    with pytest.raises(WireError) as caught:
        open_sealed(evolve(sealed, key_id=key_id(other.public_key().public_bytes_raw())), other, CONTEXT)
    assert caught.value.code == "sealed-broken"


@pytest.mark.parametrize("place", [0, 31, 32, -1])
def test_one_changed_bit_anywhere_is_noticed(place):
    sealed = seal(PASSWORD, PUBLIC, CONTEXT)
    blob = bytearray(sealed.blob)
    blob[place] ^= 1
    with pytest.raises(WireError) as caught:
        open_sealed(evolve(sealed, blob=bytes(blob)), DEVICE, CONTEXT)
    assert caught.value.code == "sealed-broken"


@pytest.mark.parametrize("blob", [b"", b"short", b"\x00" * 32, b"\x00" * 200])
def test_nonsense_in_place_of_an_envelope_is_a_clear_error(blob):
    with pytest.raises(WireError) as caught:
        open_sealed(evolve(seal(PASSWORD, PUBLIC, CONTEXT), blob=blob), DEVICE, CONTEXT)
    assert caught.value.code == "sealed-broken"


@pytest.mark.parametrize("change", [{"v": 2}, {"suite": "x25519-sha256-chacha20"}])
def test_a_newer_kind_of_envelope_is_named_as_such(change):
    with pytest.raises(UnsupportedVersionError):
        open_sealed(evolve(seal(PASSWORD, PUBLIC, CONTEXT), **change), DEVICE, CONTEXT)


@pytest.mark.parametrize("key", [b"", b"\x01" * 31, b"\x01" * 33, b"\x00" * 32])
def test_a_key_that_is_none_is_refused(key):
    # All zeros is a point of low order: everyone could open what is sealed to it.
    with pytest.raises(WireError) as caught:
        seal(PASSWORD, key, CONTEXT)
    assert caught.value.path == "device_keys.sealing"


def test_an_api_key_is_bound_to_its_appliance():
    sealed = seal(Secret("ak_site-1_x"), PUBLIC, api_key_context("p", "site-1", "a"))
    assert open_sealed(sealed, DEVICE, api_key_context("p", "site-1", "a")) == Secret("ak_site-1_x")
    with pytest.raises(WireError):
        open_sealed(sealed, DEVICE, api_key_context("p", "site-2", "a"))
