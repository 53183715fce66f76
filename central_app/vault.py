"""The vault: one key outside the database, and everything that is derived from it.

Credentials: AES-256-GCM under a data key of their own, the data key wrapped by a key derived from the vault's.
Tokens and codes: keyed BLAKE2b, so that a stolen database lets nobody in and nobody guess.
Every ciphertext is bound to what it is for: one that is moved to another row does not open.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from attrs import frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from msp_sdk.errors import ConfigError, StateError
from msp_sdk.secret import Secret

KEY_BYTES = 32
_NONCE_BYTES = 12


@frozen
class Envelope:
    """A secret at rest: its ciphertext and its wrapped data key."""

    ciphertext: bytes
    wrapped_key: bytes


class Vault:
    """Encrypts, decrypts and hashes with keys derived from one 32-byte key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigError("the vault's key does not have 32 bytes.", code="bad-vault-key")
        self._wrapping = AESGCM(_derive(key, "wrap"))
        self._codes = AESGCM(_derive(key, "codes"))
        self._pepper = _derive(key, "pepper")
        self._csrf = _derive(key, "csrf")
        self.name = _derive(key, "name").hex()

    def __repr__(self) -> str:
        return "Vault(…)"

    def hash_token(self, kind: str, text: str) -> bytes:
        """The keyed hash under which a token or code is found. ``kind`` separates their worlds."""
        # What cannot be encoded is no token of ours; it only must not fail here.
        return hashlib.blake2b(
            text.encode(errors="backslashreplace"), key=self._pepper, person=kind.encode()[:16], digest_size=32
        ).digest()

    def csrf_token(self, session_token: str) -> str:
        """The page's token of a session."""
        return hmac.new(self._csrf, session_token.encode(errors="backslashreplace"), "sha256").hexdigest()

    def encrypt(self, secret: Secret, bound_to: str) -> Envelope:
        """Encrypt a secret under a new data key."""
        data_key = AESGCM.generate_key(bit_length=256)
        return Envelope(
            ciphertext=_seal(AESGCM(data_key), secret.reveal().encode(), bound_to),
            wrapped_key=_seal(self._wrapping, data_key, f"key:{bound_to}"),
        )

    def decrypt(self, envelope: Envelope, bound_to: str) -> Secret:
        """Decrypt.

        Raises:
            StateError: It is not this vault's, or was moved or changed. Not retryable.
        """
        data_key = _open(self._wrapping, envelope.wrapped_key, f"key:{bound_to}")
        return Secret(_open(AESGCM(data_key), envelope.ciphertext, bound_to).decode())

    def encrypt_code(self, code: Secret, bound_to: str) -> bytes:
        """Encrypt a provision code; it lives for days, so it has no data key of its own."""
        return _seal(self._codes, code.reveal().encode(), bound_to)

    def decrypt_code(self, ciphertext: bytes, bound_to: str) -> Secret:
        """Decrypt a provision code.

        Raises:
            StateError: As :meth:`decrypt`.
        """
        return Secret(_open(self._codes, ciphertext, bound_to).decode())


def _derive(key: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=f"msp-central-v1 {purpose}".encode()).derive(key)


def _seal(cipher: AESGCM, plain: bytes, bound_to: str) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plain, bound_to.encode())


def _open(cipher: AESGCM, blob: bytes, bound_to: str) -> bytes:
    try:
        return cipher.decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], bound_to.encode())
    except (InvalidTag, ValueError):
        raise StateError("a stored secret does not open.", code="vault-broken") from None


def load_key(path: Path) -> bytes:
    """Read the vault's key.

    Raises:
        ConfigError: There is none, others can read it, or it is no key. Not retryable.
    """
    try:
        mode = path.stat().st_mode
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"the vault's key {path} is missing, and the database is not empty.",
            code="vault-key-missing",
            remedy="Restore the key file, or name it in MSP_CENTRAL_KEY_FILE.",
        ) from None
    except OSError as error:
        raise ConfigError(f"the vault's key {path} cannot be read: {error.strerror}.") from error
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others.", code="bad-vault-key", remedy=f"Run: chmod 600 {path}")
    try:
        key = bytes.fromhex(raw.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path} does not hold a vault key.", code="bad-vault-key", remedy="Restore the key file.")
    return key


def make_key(path: Path) -> bytes:
    """Make the vault's key, exclusively, with mode 0600; one that is there already is read.

    Raises:
        ConfigError: It cannot be written. Not retryable.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and linked into place: nobody ever reads half a key, and two that start end with one.
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_bytes(KEY_BYTES).hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(beside, path)
        except FileExistsError:
            pass
        finally:
            beside.unlink()
    except OSError as error:
        raise ConfigError(f"the vault's key cannot be written to {path}: {error.strerror}.") from error
    return load_key(path)
