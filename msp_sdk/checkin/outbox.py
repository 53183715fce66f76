"""Reports on disk until Central has taken them: in order, bounded, idempotent, without secrets.

Each report is a file; its number gives the order, its ``report_id`` makes a repeat harmless. What Central refuses for
good is put aside in ``refused/`` with the reason, so that one bad report does not hold up the rest; it stands in
:attr:`Outbox.refused` until Central has a report in its place.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from msp_sdk.checkin.refusals import ENTRIES_REFUSED, REPORT_REFUSED, Refusals, matter_of, without_named
from msp_sdk.errors import CentralError, ConfigError, MspError, NotEnrolledError, WireError
from msp_sdk.models.compliance import ScanReport
from msp_sdk.models.computer import EnumerationReport
from msp_sdk.models.domain import DiscoveryReport
from msp_sdk.models.rollout import DeploymentReport
from msp_sdk.models.runbook import RunbookReport
from msp_sdk.models.target import TargetsReport
from msp_sdk.wire import ndjson, routes
from msp_sdk.wire.converter import dumps, loads, structure
from msp_sdk.wire.http import CentralHttp
from msp_sdk.wire.routes import Route

logger = logging.getLogger(__name__)

Report = DiscoveryReport | EnumerationReport | TargetsReport | DeploymentReport | ScanReport | RunbookReport

ROUTES: Mapping[type, Route] = {
    DiscoveryReport: routes.REPORT_DISCOVERY,
    EnumerationReport: routes.REPORT_ENUMERATION,
    TargetsReport: routes.REPORT_TARGETS,
    DeploymentReport: routes.REPORT_DEPLOYMENTS,
    ScanReport: routes.REPORT_SCAN,
    RunbookReport: routes.REPORT_RUNBOOK,
}
_KINDS = {kind.__name__: kind for kind in ROUTES}
# A report longer than this goes as NDJSON (the contract's limit for one JSON document is 1 MiB).
JSON_LIMIT_BYTES = 512 * 1024
STANDING = "standing.json"


@frozen
class OutboxOptions:
    """How much is kept. Beyond that the oldest reports of the same kind are given up first, and that is logged.

    Attributes:
        longest_count: Reports that wait.
        refused_count: Reports that Central refused for good; the older ones go.
    """

    longest_count: int = 1000
    refused_count: int = 100


class Outbox:
    """Reports that wait for Central.

    Args:
        folder: Made with mode 0700; survives restarts.
        options: Bounds.

    Raises:
        ConfigError: The folder cannot be used.
    """

    def __init__(self, folder: Path, options: OutboxOptions | None = None) -> None:
        self._folder = folder
        self._options = options or OutboxOptions()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for torn in folder.glob(".*.new"):
                torn.unlink()
        except OSError as error:
            raise ConfigError(f"the outbox {folder} cannot be used: {error.strerror}.") from error
        self._next = max((int(path.name.split("-")[0]) for path in self._files()), default=0) + 1
        self._putting = threading.Lock()
        self._flushing = asyncio.Lock()
        self._refusals = Refusals(folder / "refused" / STANDING, _write_whole)

    @property
    def refused(self) -> Mapping[str, str]:
        """What Central refused for good and has not got since: by what it is about, a code; empty when all is well."""
        return self._refusals.standing

    def clear_refused(self, matter: str) -> None:
        """What was refused of this matter stands no more: it is said anew, or there is no such thing now. Blocks.

        Raises:
            ConfigError: It cannot be written.
        """
        try:
            self._refusals.clear(matter)
        except OSError as error:
            raise ConfigError(f"the outbox {self._folder} cannot be used: {error.strerror}.") from error

    def put(self, report: Report) -> None:
        """Keep a report until it is taken. It is on disk when this returns. Blocks; any thread may call it.

        Raises:
            ConfigError: It cannot be written.
        """
        content = dumps(report)
        with self._putting:
            self._put(type(report).__name__, content)

    def _put(self, kind: str, content: bytes) -> None:
        try:
            _write_whole(self._folder / f"{self._next:012d}-{kind}.json", content)
        except OSError as error:
            raise ConfigError(f"a report cannot be kept in {self._folder}: {error.strerror}.") from error
        self._next += 1
        self._give_up_the_oldest()

    def __len__(self) -> int:
        return sum(1 for _ in self._files())

    async def flush(self, http: CentralHttp) -> int:
        """Send what waits, oldest first; returns how many were taken.

        It ends early, without an error, where Central cannot take them now; they stay. One at a time sends: a second
        caller waits for the first, so that the order holds.

        Raises:
            NotEnrolledError: The key is no longer good; everything stays.
            ConfigError: The folder cannot be used; what waits stays.
        """
        async with self._flushing:
            try:
                return await self._flush(http)
            except OSError as error:
                raise ConfigError(f"the outbox {self._folder} cannot be used: {error.strerror}.") from error

    async def _flush(self, http: CentralHttp) -> int:
        taken = 0
        for path in await asyncio.to_thread(lambda: list(self._files())):
            try:
                reply = await self._send_what_fits(http, path)
                await asyncio.to_thread(self._note_taken, path, reply)
            except FileNotFoundError:
                continue  # it was given up meanwhile
            except NotEnrolledError:
                raise
            except CentralError as error:
                if error.retryable or error.status >= 500:  # noqa: PLR2004
                    logger.info("reports wait: %s", error.detail)
                    return taken
                await asyncio.to_thread(self._put_aside, path, error)
                continue
            except WireError as error:
                await asyncio.to_thread(self._put_aside, path, error)
                continue
            except MspError as error:
                logger.info("reports wait: %s", error.detail)
                return taken
            path.unlink(missing_ok=True)
            taken += 1
        return taken

    async def _send_what_fits(self, http: CentralHttp, path: Path) -> object:
        """Send a report. Where Central names the hosts that it cannot hold, the others are sent without them."""
        kind = _KINDS[_kind_of(path)]
        content = await asyncio.to_thread(path.read_bytes)
        refused: list[str] = []
        while True:
            try:
                reply = await self._send(http, kind, content)
            except CentralError as error:
                rest = None if error.retryable else without_named(kind.__name__, content, error.problem)
                if rest is None:
                    raise
                content = rest.content
                refused += rest.left_out
            else:
                return {"refused_count": len(refused), "refused": refused} if refused else reply

    async def _send(self, http: CentralHttp, kind: type, content: bytes) -> object:
        route = ROUTES[kind]
        if kind is EnumerationReport and len(content) > JSON_LIMIT_BYTES:
            lines = await asyncio.to_thread(_as_lines, content)
            return await http.send_bytes(route, lines, content_type=ndjson.MEDIA_TYPE)
        return await http.send_bytes(route, content, content_type="application/json")

    def _files(self) -> Iterator[Path]:
        return iter(sorted(path for path in self._folder.glob("*-*.json") if _is_report(path)))

    def _note_taken(self, path: Path, reply: object) -> None:
        """Central has it; what it could not hold of it is told."""
        refused_count = reply.get("refused_count") if isinstance(reply, Mapping) else None
        if not refused_count and not self._refusals.standing:
            return
        matter = matter_of(_kind_of(path), path.read_bytes())
        self._refusals.heal(matter)
        if refused_count and isinstance(reply, Mapping):
            logger.error("Central cannot hold %s entries of %s: %s", refused_count, path.name, reply.get("refused"))
            self._refusals.note(matter, ENTRIES_REFUSED)

    def _put_aside(self, path: Path, error: MspError) -> None:
        self._refusals.note(matter_of(_kind_of(path), path.read_bytes()), REPORT_REFUSED)
        aside = self._folder / "refused"
        aside.mkdir(mode=0o700, exist_ok=True)
        places: Any = error.problem.get("errors", []) if isinstance(error, CentralError) else []
        logger.error("Central refused the report %s for good (%s): %s %s", path.name, error.code, error.detail, places)
        (aside / f"{path.stem}.reason").write_text(json.dumps({"code": error.code, "detail": error.detail}))
        path.replace(aside / path.name)
        refused = sorted(entry for entry in aside.glob("*-*.json") if _is_report(entry))
        for entry in refused[: max(0, len(refused) - self._options.refused_count)]:
            entry.unlink(missing_ok=True)
            entry.with_suffix(".reason").unlink(missing_ok=True)

    def _give_up_the_oldest(self) -> None:
        files = list(self._files())
        while len(files) > self._options.longest_count:
            kinds = [_kind_of(path) for path in files]
            most = max(set(kinds), key=kinds.count)
            oldest = files.pop(kinds.index(most))
            logger.error("the outbox is full: the report %s is given up", oldest.name)
            oldest.unlink(missing_ok=True)


def _kind_of(path: Path) -> str:
    return path.stem.split("-", 1)[1]


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole, or as it was before, even after a power cut."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _is_report(path: Path) -> bool:
    number, _, kind = path.stem.partition("-")
    return number.isascii() and number.isdigit() and kind in _KINDS


def _as_lines(content: bytes) -> bytes:
    return b"".join(ndjson.render_report(structure(loads(content), EnumerationReport)))
