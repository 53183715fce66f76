"""Packages on the appliance: fetched once from Central, verified, kept by digest."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from msp_sdk.errors import ConfigError, DigestMismatchError
from msp_sdk.models.package import AgentPackage
from msp_sdk.wire.http import CentralHttp
from msp_sdk.wire.routes import PACKAGE_DOWNLOAD

_CHUNK_BYTES = 256 * 1024


class PackageCache:
    """Files of agent packages, by digest.

    Args:
        folder: Where they are kept.
        http: Central.
    """

    def __init__(self, folder: Path, http: CentralHttp) -> None:
        self._folder = folder
        self._http = http

    def path(self, package: AgentPackage) -> Path:
        """Where the package's file is, once it was fetched."""
        return self._folder / package.sha256

    async def fetch(self, package: AgentPackage) -> None:
        """Fetch the file if it is not there; it is believed only with the digest that the package names.

        Raises:
            CentralError, TransportError: Central does not give it.
            DigestMismatchError: What came is another file; nothing is kept.
            ConfigError: It cannot be written.
        """
        if await asyncio.to_thread(self._is_there, package):
            return
        beside = self._folder / f".{package.sha256}.{os.getpid()}"
        digest = hashlib.sha256()
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            async with self._http.stream(PACKAGE_DOWNLOAD, names={"sha256": package.sha256}) as response:
                with beside.open("wb") as file:
                    async for chunk in response.aiter_bytes(_CHUNK_BYTES):
                        digest.update(chunk)
                        await asyncio.to_thread(file.write, chunk)
            if digest.hexdigest() != package.sha256:
                raise DigestMismatchError(f"Central gave another file for {package.name} {package.version}.")
            beside.replace(self.path(package))
        except OSError as error:
            raise ConfigError(f"the package cannot be kept in {self._folder}: {error.strerror}.") from error
        finally:
            beside.unlink(missing_ok=True)

    def _is_there(self, package: AgentPackage) -> bool:
        try:
            with self.path(package).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == package.sha256
        except OSError:
            return False
