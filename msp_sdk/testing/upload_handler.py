"""What virtual machines do when they are sent the script ``upload``; see :mod:`msp_sdk.testing.script_handlers`."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping
from datetime import timedelta

from msp_sdk.testing.machine import faults
from msp_sdk.testing.machine.faults import WindowsFault
from msp_sdk.testing.machine.files import Mode
from msp_sdk.testing.windows_host import Machine, ScriptFault, answers, close_folder, text_parameter

_BASE = r"C:\ProgramData\msp"
_UPLOADS = rf"{_BASE}\uploads"
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_AGE = timedelta(days=7)
_CODES = {faults.DISK_FULL: "disk-full", faults.VIRUS_INFECTED: "blocked-by-antivirus"}


@answers("upload", sha256="9430974ce8f102fa248bac331cb364fde6e3d857b282397de70276ceed39de8c")
def upload(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """Append where the file ends at the offset; tell how much lies there."""
    upload_id, name = text_parameter(parameters, "upload_id"), text_parameter(parameters, "file_name")
    if not _ID.fullmatch(upload_id) or not _NAME.fullmatch(name):
        raise ScriptFault("script-failed", "upload_id or file_name is not a plain name.")
    program, folder = machine.program(), rf"{_UPLOADS}\{upload_id}"
    path = rf"{folder}\{name}"
    close_folder(program, _BASE)
    close_folder(program, _UPLOADS)
    for old in machine.files.folders_in(_UPLOADS):
        if old.created_at < machine.clock.now() - _AGE:
            with contextlib.suppress(WindowsFault):
                program.remove_folder(old.path, with_content=True)
    close_folder(program, folder)
    try:
        held, digest = _append(machine, path, parameters, payload)
    except WindowsFault as fault:
        raise ScriptFault(_CODES.get(fault.number, "script-failed"), fault.detail) from fault
    if not program.exists(path):
        raise ScriptFault("blocked-by-antivirus", "the file was gone as soon as it was written.")
    return {"path": path, "held_bytes": held, "held_sha256": digest}


def _append(machine: Machine, path: str, parameters: Mapping[str, object], payload: bytes) -> tuple[int, str | None]:
    """How much of the file lies there afterwards, and its digest where that is told."""
    size_bytes, offset = parameters["size_bytes"], parameters["offset"]
    assert isinstance(size_bytes, int)  # noqa: S101 (the contract has been checked by who sent it)
    program = machine.program()
    mode: Mode = "open" if program.exists(path) else "new"
    with program.files.open(path, {"read", "write"}, share={"read"}, mode=mode, who=program.who) as stream:
        if parameters["restart"]:
            stream.empty()
        content = stream.read()
        if machine.disk_free_bytes < size_bytes - len(content):
            raise ScriptFault("disk-full", f"{machine.disk_free_bytes} bytes are free.")
        if offset == len(content):
            content += payload
            stream.write(content)
        digest = hashlib.sha256(content).hexdigest() if offset is None or len(content) >= size_bytes else None
        if len(content) >= size_bytes and digest != parameters["sha256"]:
            stream.empty()
            detail = f"{len(content)} bytes with the digest {digest} lay there; they were given up."
            raise ScriptFault("digest-mismatch", detail)
    return len(content), digest
