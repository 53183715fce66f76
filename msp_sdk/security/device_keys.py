"""The private keys of an appliance: made once, kept in one file with mode 0600."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from msp_sdk.errors import ConfigError
from msp_sdk.models.credential import SealedSecret
from msp_sdk.models.provision import DeviceKeys
from msp_sdk.secret import Secret
from msp_sdk.security.sealing import SealContext, open_sealed
from msp_sdk.security.signatures import RAW_KEY_BYTES, claim_message


class DevicePrivateKeys:
    """Ed25519 for proofs and X25519 for opening envelopes. Never shown, never sent."""

    def __init__(self, signing: Ed25519PrivateKey, sealing: X25519PrivateKey) -> None:
        self._signing = signing
        self._sealing = sealing

    def __repr__(self) -> str:
        return "DevicePrivateKeys(…)"

    @classmethod
    def generate(cls) -> Self:
        """Make new keys."""
        return cls(Ed25519PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def load_or_make(cls, path: Path) -> Self:
        """Read the keys from ``path``, or make and write them if there is no such file.

        Raises:
            ConfigError: The file cannot be read or written, is readable by others, or is no key file.
        """
        try:
            return cls._load(path)
        except FileNotFoundError:
            keys = cls.generate()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                # Written beside and linked into place: two processes that start at once end with one pair.
                beside = path.with_name(f".{path.name}.{os.getpid()}")
                descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(keys.raw())
                    file.flush()
                    os.fsync(file.fileno())
                try:
                    os.link(beside, path)
                except FileExistsError:
                    return cls._load(path)
                finally:
                    beside.unlink()
                # A claim binds these keys at Central: a power cut must not take them away again.
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            except OSError as error:
                raise ConfigError(f"the device keys cannot be written to {path}: {error.strerror}.") from error
            return keys

    @classmethod
    def _load(cls, path: Path) -> Self:
        try:
            if path.stat().st_mode & 0o077:
                raise ConfigError(f"{path} can be read by others.", remedy=f"Run: chmod 600 {path}")
            raw = path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ConfigError(f"the device keys in {path} cannot be read: {error.strerror}.") from error
        if len(raw) != 2 * RAW_KEY_BYTES:
            raise ConfigError(f"{path} does not hold device keys.", remedy="Restore it, or remove it and claim again.")
        return cls(
            Ed25519PrivateKey.from_private_bytes(raw[:RAW_KEY_BYTES]),
            X25519PrivateKey.from_private_bytes(raw[RAW_KEY_BYTES:]),
        )

    def raw(self) -> bytes:
        """Both private keys, for the key file alone."""
        return self._signing.private_bytes_raw() + self._sealing.private_bytes_raw()

    @property
    def public(self) -> DeviceKeys:
        """The public halves, raw."""
        return DeviceKeys(
            signing=self._signing.public_key().public_bytes_raw(), sealing=self._sealing.public_key().public_bytes_raw()
        )

    def prove(self, code: Secret, mac: str) -> bytes:
        """Sign a claim of ``code`` (canonical) by the appliance with this MAC."""
        return self._signing.sign(claim_message(code, mac, self.public.sealing))

    def open(self, sealed: SealedSecret, context: SealContext) -> Secret:
        """Open an envelope that was sealed to us.

        Raises:
            UnsupportedVersionError, WireError: As :func:`open_sealed`.
        """
        return open_sealed(sealed, self._sealing, context)
