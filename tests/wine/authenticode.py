"""Authenticode signatures, made and judged by osslsigncode.

It stands for what Windows says of a file's signature: is it there, does it cover the bytes, does its chain end at a
root that we trust. It does not prove time stamps, revocation, the names that a policy pins, or what Windows' own store
trusts.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from msp_sdk.testing.certificates import EstateCA, IssuedCertificate

Verdict = Literal["valid", "not-signed", "digest-mismatch", "untrusted"]

PUBLISHER = "Msp Test Publisher"


def sign(source: Path, signed: Path, signer: IssuedCertificate) -> Path:
    """Write a signed copy of a program or MSI, and return its path.

    Args:
        source: Unsigned; stays as it is.
        signed: Must not exist.
        signer: From :meth:`EstateCA.issue_signer`.

    Raises:
        subprocess.CalledProcessError: osslsigncode refused.
    """
    with TemporaryDirectory() as folder:
        cert, key = signer.write(Path(folder), "signer")
        subprocess.run(
            ["osslsigncode", "sign", "-certs", cert, "-key", key, "-h", "sha256", "-in", source, "-out", signed],
            capture_output=True,
            check=True,
        )
    return signed


def judge(path: Path, ca: EstateCA) -> Verdict:
    """What is to be said of a file's signature, with this CA as the one root that is trusted.

    Raises:
        ValueError: osslsigncode said what we do not know: nothing is guessed from it.
    """
    with TemporaryDirectory() as folder:
        root = Path(folder) / "root.pem"
        root.write_bytes(ca.pem)
        ran = subprocess.run(
            ["osslsigncode", "verify", "-CAfile", root, "-in", path], capture_output=True, text=True, check=False
        )
    said = ran.stdout + ran.stderr
    if ran.returncode == 0 and "Signature verification: ok" in said:
        return "valid"
    if "No signature found" in said or "MSI file has no signature" in said:
        return "not-signed"
    # Who signed what it was before does not matter any more.
    if "MISMATCH" in said:
        return "digest-mismatch"
    if "Signature verification: failed" in said:
        return "untrusted"
    message = f"osslsigncode ended with {ran.returncode}: {said[-500:]}"
    raise ValueError(message)


def flip_byte(source: Path, target: Path, *, inside: bytes) -> Path:
    """Write a copy with one bit changed just after the first ``inside``, and return its path."""
    content = bytearray(source.read_bytes())
    content[content.index(inside) + len(inside) + 64] ^= 1
    target.write_bytes(content)
    return target
