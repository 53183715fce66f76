"""What virtual machines do when they are sent the scripts of deployment.

Each handler states what its script does, step by step, on the machine's disk and services: what is open elsewhere,
held by an antivirus, full, slow or stuck there meets it as it would meet the script. It is bound to the digest of the
script's text: after a change of a script read its handler again, then write the new digest here.

A machine's ``notes`` steer it: ``power_cut_at`` (``staged``, ``stopped``, ``swapped``, ``configured``) cuts the next
run off there, once; ``staged_garbage`` spoils what arrives, once.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta

from attrs import frozen, mutable

from msp_sdk.testing.agent_file import read_agent
from msp_sdk.testing.machine import faults
from msp_sdk.testing.machine.faults import WindowsFault
from msp_sdk.testing.machine.names import clean, expand, key, parent
from msp_sdk.testing.machine.program import Program
from msp_sdk.testing.machine.services import Service
from msp_sdk.testing.windows_host import Machine, ScriptFault, answers, close_folder
from msp_sdk.testing.windows_host import text_parameter as _text

_BASE = r"C:\ProgramData\msp"
_STAGE = rf"{_BASE}\stage"
_STAGE_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_STAGE_AGE = timedelta(days=7)
_ROOM_FACTOR = 3
_MUTEX_WAIT_S = 60.0
_STOP_WAIT_S = 30.0
_UNLOCK_TRIES, _UNLOCK_STEP_S = 60, 0.5
_SETTLE_S = 2.0
# What a script says itself, by what Windows says; all else has the script's own name for a failure.
_CODES = {faults.DISK_FULL: "disk-full", faults.VIRUS_INFECTED: "blocked-by-antivirus"}


@frozen
class _Places:
    """The paths and the service that the parameters name."""

    service: str
    folder: str
    file: str
    config: str | None
    staged: str | None

    @classmethod
    def of(cls, parameters: Mapping[str, object]) -> _Places:
        folder, name = clean(expand(_text(parameters, "install_folder"))), _text(parameters, "file_name")
        config, stage_id = parameters.get("config_name"), parameters.get("stage_id")
        return cls(
            _text(parameters, "service_name"),
            folder,
            f"{folder}\\{name}",
            f"{folder}\\{config}" if config else None,
            f"{_STAGE}\\{stage_id}\\{name}" if stage_id else None,
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_digest(program: Program, path: str | None) -> str | None:
    """The digest of a file that others may read and delete meanwhile; None when it is not there."""
    return _digest(program.read(path)) if path and program.exists(path) else None


def _check_stage_id(parameters: Mapping[str, object]) -> None:
    if not _STAGE_ID.fullmatch(str(parameters.get("stage_id"))):
        raise ScriptFault("script-failed", "stage_id is not a plain name.")


def _cut(machine: Machine, at: str) -> None:
    """The power goes here, once, when a test wants it to."""
    if machine.notes.get("power_cut_at") == at:
        del machine.notes["power_cut_at"]
        machine.power_off()
        raise ScriptFault("connection-lost", f"the power went when it was {at}.")


@contextlib.contextmanager
def _deployment_mutex(machine: Machine, service: str) -> Iterator[None]:
    name = f"Global\\msp-agent-{service}"
    if not machine.clock.wait(lambda: name not in machine.mutexes, timeout_s=_MUTEX_WAIT_S):
        raise ScriptFault("script-failed", "another deployment is at work on this host.")
    machine.mutexes.add(name)
    try:
        yield
    finally:
        machine.mutexes.discard(name)


def _stop_agent(machine: Machine, name: str) -> None:
    """``Stop-Service`` and half a minute; one that is on its way up or down cannot be told to stop."""
    service = machine.services.find(name)
    if service is None or service.state == "stopped":
        return
    machine.services.stop(name)
    if not machine.services.stop_and_wait(name, timeout_s=_STOP_WAIT_S):
        raise WindowsFault(faults.SERVICE_REQUEST_TIMEOUT, f"the service {name} did not stop in time.")


def _wait_unlocked(machine: Machine, program: Program, path: str) -> None:
    """Until nobody has the file open; half a minute at most."""
    for attempt in range(_UNLOCK_TRIES + 1):
        if not program.exists(path):
            return
        try:
            program.files.open(path, {"read", "write"}, share=set(), who=program.who).close()
        except WindowsFault:
            if attempt == _UNLOCK_TRIES:
                raise
            machine.clock.advance(_UNLOCK_STEP_S)
        else:
            return


def start_agent(machine: Machine, name: str) -> None:
    """Start the agent's service and see it run for a while, as the script's ``Start-Agent`` does."""
    try:
        machine.services.start_and_wait(name)
    except WindowsFault as fault:
        # Start-Service is content with a service that runs, such as one that a failure action has started again.
        if fault.number != faults.SERVICE_ALREADY_RUNNING:
            raise
        machine.services.wait_until_running(name)
    machine.clock.advance(_SETTLE_S)
    service = machine.services.find(name)
    if service is None or service.state != "running":
        raise WindowsFault(faults.PROCESS_ABORTED, "the service stopped right after its start.")


@answers("agent-state", sha256="798fd113b7ee19d134bb27638a747b6bc96779583856f7d9a581bcc850e01b8c")
def agent_state(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """What stands of the agent; touches nothing."""
    del payload
    places, program = _Places.of(parameters), machine.program()
    content = machine.files.read(places.file)
    traits = read_agent(content) if content is not None else None
    service = machine.services.find(places.service)
    return {
        "installed": content is not None,
        "version": traits.version if traits else None,
        "file_sha256": _file_digest(program, places.file),
        "config_sha256": _file_digest(program, places.config),
        "service_state": service.state if service else None,
        "service_path_ok": service is not None and key(service.binary) == key(places.file),
        "staged_sha256": _file_digest(program, places.staged),
        "disk_free_bytes": machine.disk_free_bytes,
    }


@answers("agent-stage", sha256="933e30930588aa49e7fe76f468e294f5ea6b6e17c4c2c212f0737b833483d5a8")
def agent_stage(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """Write the payload into the run's staging folder."""
    _check_stage_id(parameters)
    size_bytes = parameters.get("size_bytes")
    if not isinstance(size_bytes, int):
        raise ScriptFault("script-failed", "the parameter size_bytes is missing.")
    if machine.disk_free_bytes < _ROOM_FACTOR * size_bytes:
        raise ScriptFault("disk-full", f"{machine.disk_free_bytes} bytes are free.")
    if machine.notes.pop("staged_garbage", False):
        payload = payload[:-1]
    program = machine.program()
    path = f"{_STAGE}\\{parameters['stage_id']}\\{_text(parameters, 'file_name')}"
    with _deployment_mutex(machine, _text(parameters, "service_name")):
        close_folder(program, _BASE)
        close_folder(program, _STAGE)
        for old in machine.files.folders_in(_STAGE):
            if old.created_at < machine.clock.now() - _STAGE_AGE:
                with contextlib.suppress(WindowsFault):
                    program.remove_folder(old.path, with_content=True)
        close_folder(program, parent(path))
        program.delete(path)
        try:
            program.write(path, payload)
            if not program.exists(path):
                raise ScriptFault("blocked-by-antivirus", "the file was gone as soon as it was written.")
            with program.open_to_read(path, may_go=False) as handle:
                content = handle.read()
        except WindowsFault as fault:
            raise ScriptFault(_CODES.get(fault.number, "script-failed"), fault.detail) from fault
        _cut(machine, "staged")
    return {"size_bytes": len(content), "sha256": _digest(content)}


@mutable
class _Swap:
    """A file of the agent: what is wished, what is there, and what this run has done to it."""

    path: str
    wanted: bytes | None
    same: bool
    unseen: bool
    swapped: bool = False


@answers("agent-install", sha256="45002429aee450412149a13e202d4821872948589a8095d4d0378fe369f1d5c8")
def agent_install(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """Stop, swap, start; rolled back when the service does not start."""
    del payload
    _check_stage_id(parameters)
    places, program, wanted = _Places.of(parameters), machine.program(), _text(parameters, "sha256")
    with _deployment_mutex(machine, places.service):
        recovered = not program.exists(places.file) and program.exists(f"{places.file}.previous")
        if recovered:
            program.move(f"{places.file}.previous", places.file)
        current = _file_digest(program, places.file)
        known = parameters.get("known_sha256")
        if current not in {None, wanted, *(known if isinstance(known, list) else ())}:
            raise ScriptFault("changed-since-plan", f"the file there has the digest {current}.")
        service = machine.services.find(places.service)
        was_running = service is not None and service.state == "running"
        path_ok = service is not None and key(service.binary) == key(places.file)
        swaps = [_Swap(places.file, None, current == wanted, _is_unseen(program, places.file, running=was_running))]
        if places.config:
            config = base64.b64decode(_text(parameters, "config"))
            same = program.exists(places.config) and program.read(places.config) == config
            unseen = _is_unseen(program, places.config, running=was_running)
            swaps.append(_Swap(places.config, config, same, unseen))
        changed = not (all(swap.same for swap in swaps) and was_running and path_ok)
        if changed:
            for swap in swaps:
                swap.swapped = swap.same and swap.unseen
            program.make_folder(places.folder)
            try:
                _bring(machine, parameters, places, swaps)
            except (ScriptFault, WindowsFault) as fault:
                code = _failure_code(fault)
                if code == "connection-lost":
                    raise  # nobody is left to roll back
                start = was_running or (swaps[0].unseen and swaps[0].swapped and service is not None)
                undone = _roll_back(machine, places, swaps, fresh=service is None, had=current is not None, start=start)
                raise ScriptFault(code, f"{fault.detail} ({undone})") from fault
        with contextlib.suppress(WindowsFault):
            for swap in swaps:
                program.delete(f"{swap.path}.previous")
                program.delete(f"{swap.path}.new")
            program.remove_folder(parent(places.staged or ""), with_content=True)
    now = machine.services.find(places.service)
    return {"changed": changed, "recovered": recovered, "service_state": now.state if now else ""}


def _failure_code(fault: ScriptFault | WindowsFault) -> str:
    return fault.code if isinstance(fault, ScriptFault) else _CODES.get(fault.number, "install-failed")


def _is_unseen(program: Program, path: str, *, running: bool) -> bool:
    """True for a swap of an earlier run that nobody has seen work."""
    return program.exists(f"{path}.previous") and not running


def _bring(machine: Machine, parameters: Mapping[str, object], places: _Places, swaps: list[_Swap]) -> None:
    """Stop, bring what is missing into its place, start; ``swapped`` of each tells a caller what to undo."""
    program, wanted = machine.program(), _text(parameters, "sha256")
    _stop_agent(machine, places.service)
    _cut(machine, "stopped")
    for swap in swaps:
        if swap.same:
            continue
        if swap.wanted is None:
            _wait_unlocked(machine, program, swap.path)
            program.write(f"{swap.path}.new", _staged(program, places.staged or "", wanted))
        else:
            program.write(f"{swap.path}.new", swap.wanted)
        _wait_unlocked(machine, program, f"{swap.path}.new")
        _move_into_place(program, swap)
        swap.swapped = True
        if swap.wanted is None and _file_digest(program, swap.path) != wanted:
            raise ScriptFault("blocked-by-antivirus", "the file changed or vanished in its place.")
        _cut(machine, "swapped" if swap.wanted is None else "configured")
    service = machine.services.find(places.service)
    if service is None:
        machine.services.register(Service(places.service, places.file, _text(parameters, "display_name")))
    elif key(service.binary) != key(places.file) or service.start != "auto":
        if service.marked_for_deletion:
            raise WindowsFault(faults.SERVICE_MARKED_FOR_DELETE, "the service could not be changed: 16.")
        service.binary, service.start = places.file, "auto"
    start_agent(machine, places.service)


def _staged(program: Program, path: str, wanted: str) -> bytes:
    if not program.exists(path):
        raise ScriptFault("blocked-by-antivirus", "the staged file is gone.")
    with program.open_to_read(path, may_go=False) as source:
        content = source.read()
    if _digest(content) != wanted:
        raise ScriptFault("digest-mismatch", "the staged file is another one.")
    return content


def _move_into_place(program: Program, swap: _Swap) -> None:
    if not program.exists(swap.path):
        program.move(f"{swap.path}.new", swap.path)
    else:
        # What lies there unseen has never been seen to work; the one before it has.
        program.replace(f"{swap.path}.new", swap.path, None if swap.unseen else f"{swap.path}.previous")


def _roll_back(machine: Machine, places: _Places, swaps: list[_Swap], *, fresh: bool, had: bool, start: bool) -> str:
    """Undo what was done, and say what came of it."""
    program, file = machine.program(), swaps[0]
    undone = "the file before is in its place" if had else "nothing had been there before"
    try:
        _stop_agent(machine, places.service)
        _wait_unlocked(machine, program, places.file)
        if fresh:
            machine.services.delete(places.service)
        if program.exists(f"{file.path}.previous") and (file.swapped or not program.exists(file.path)):
            undone = "rolled back to the file before"
        for swap in swaps:
            _undo(machine, program, swap)
            _wait_unlocked(machine, program, f"{swap.path}.new")
            program.delete(f"{swap.path}.new")
        if start:
            start_agent(machine, places.service)
    except WindowsFault as fault:
        return f"rolling back failed: {fault.detail}"
    return undone


def _undo(machine: Machine, program: Program, swap: _Swap) -> None:
    previous = f"{swap.path}.previous"
    # A replacement may end half-way: the old file is put aside and the new one is not there.
    if swap.swapped or (program.exists(previous) and not program.exists(swap.path)):
        _wait_unlocked(machine, program, swap.path)
        program.delete(swap.path)
        if program.exists(previous):
            program.move(previous, swap.path)


@answers("agent-remove", sha256="d717e13af87e6334d48049d2f0f6d232d61b237899c2994da2bb342d428701bf")
def agent_remove(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """Take the agent away: service, files, and the folder when nothing else is in it."""
    del payload
    places, program, removed = _Places.of(parameters), machine.program(), False
    with _deployment_mutex(machine, places.service):
        if machine.services.find(places.service) is not None:
            _stop_agent(machine, places.service)
            try:
                removed = machine.services.delete(places.service)
            except WindowsFault as fault:
                raise ScriptFault("install-failed", "the service could not be deleted: 16.") from fault
        for name in filter(None, (places.file, places.config)):
            for end in ("", ".previous", ".new"):
                if program.exists(f"{name}{end}"):
                    _wait_unlocked(machine, program, f"{name}{end}")
                    removed = program.delete(f"{name}{end}") or removed
        if machine.files.folder(places.folder) is not None:
            with contextlib.suppress(WindowsFault):
                program.remove_folder(places.folder)
    return {"removed": removed}
