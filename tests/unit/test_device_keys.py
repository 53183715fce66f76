"""The private keys of an appliance: made once, readable by their owner alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from msp_sdk.errors import ConfigError
from msp_sdk.secret import Secret
from msp_sdk.security.device_keys import DevicePrivateKeys
from msp_sdk.security.sealing import SealContext, seal
from msp_sdk.security.signatures import claim_message, verify_signature

CODE = Secret("K7QX0123456789AB")
MAC = "00:11:22:33:44:55"


def test_keys_are_made_once_and_read_again(tmp_path):
    path = tmp_path / "state" / "device.key"
    made = DevicePrivateKeys.load_or_make(path)
    assert DevicePrivateKeys.load_or_make(path).public == made.public
    assert [entry.name for entry in path.parent.iterdir()] == ["device.key"]


def test_only_the_owner_can_read_the_file_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        DevicePrivateKeys.load_or_make(tmp_path / "device.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "device.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_file_that_others_can_read_is_refused_with_the_remedy(tmp_path, mode):
    path = tmp_path / "device.key"
    DevicePrivateKeys.load_or_make(path)
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        DevicePrivateKeys.load_or_make(path)
    assert "chmod 600" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"x" * 63, b"x" * 65])
def test_a_broken_file_is_never_replaced_by_new_keys(tmp_path, content):
    # New keys would be another device: the old place at Central would be lost without a word.
    path = tmp_path / "device.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        DevicePrivateKeys.load_or_make(path)
    assert path.read_bytes() == content


def test_a_folder_in_place_of_the_file_is_a_clear_error(tmp_path):
    folder = tmp_path / "device.key"
    folder.mkdir(mode=0o700)
    with pytest.raises(ConfigError):
        DevicePrivateKeys.load_or_make(folder)


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        DevicePrivateKeys.load_or_make(tmp_path / "file" / "device.key")


def test_processes_that_start_at_once_end_with_one_pair(tmp_path):
    path = tmp_path / "device.key"
    program = (
        "import sys; from pathlib import Path; from msp_sdk.security.device_keys import DevicePrivateKeys;"
        "sys.stdin.read(); print(DevicePrivateKeys.load_or_make(Path(sys.argv[1])).public.signing.hex())"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
        racer.stdin = None
    keys = {racer.communicate(timeout=30)[0] for racer in racers}
    assert len(keys) == 1
    assert keys.pop().decode().strip() == DevicePrivateKeys.load_or_make(path).public.signing.hex()
    assert [entry.name for entry in tmp_path.iterdir()] == ["device.key"]


def test_a_repr_shows_no_key():
    keys = DevicePrivateKeys.generate()
    assert keys.raw().hex() not in repr(keys)
    assert repr(keys) == "DevicePrivateKeys(…)"


def test_a_proof_holds_for_its_code_mac_and_keys():
    keys = DevicePrivateKeys.generate()
    proof = keys.prove(CODE, "00-11-22-33-44-55")
    public = keys.public
    assert verify_signature(public.signing, proof, claim_message(CODE, MAC, public.sealing))
    other = DevicePrivateKeys.generate().public
    for message in (
        claim_message(Secret("K7QX0123456789AC"), MAC, public.sealing),
        claim_message(CODE, "00:11:22:33:44:56", public.sealing),
        claim_message(CODE, MAC, other.sealing),
    ):
        assert not verify_signature(public.signing, proof, message)
    assert not verify_signature(other.signing, proof, claim_message(CODE, MAC, public.sealing))


def test_the_proof_signs_exactly_what_the_protocol_says():
    sealing = bytes(range(32))
    assert claim_message(CODE, "001122334455", sealing) == (
        b"msp-claim-v1\nK7QX0123456789AB\n00:11:22:33:44:55\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    )


@pytest.mark.parametrize("key", [b"", b"\x00" * 32, b"\xff" * 32, b"x" * 31])
@pytest.mark.parametrize("signature", [b"", b"\x00" * 64, b"x" * 63])
def test_nonsense_in_place_of_a_signature_is_false_and_no_exception(key, signature):
    assert not verify_signature(key, signature, b"message")


def test_keys_open_what_is_sealed_to_them(tmp_path):
    keys = DevicePrivateKeys.load_or_make(tmp_path / "device.key")
    context = SealContext("p", "s", "a", "c", 1, "winrm", "admin", "srv1")
    sealed = seal(Secret("x"), keys.public.sealing, context)
    assert DevicePrivateKeys.load_or_make(tmp_path / "device.key").open(sealed, context) == Secret("x")
