"""What virtual machines do when they are sent the scripts of deployment and compliance.

Each handler states what its script does, step by step, and is bound to the digest of the script's text. After a
change of a script read its handler again, then write the new digest here.

A machine's ``notes`` steer it: ``power_cut_at`` (``staged``, ``stopped``, ``swapped``, ``configured``) cuts the next
run off there, once; ``staged_garbage`` spoils what arrives, once; ``other_antivirus`` is a list of products;
``directory`` holds the entries of the directory of which the machine is a controller.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping

from msp_sdk.testing.builders import read_agent
from msp_sdk.testing.windows_host import Machine, ScriptFault, Service, answers

_FOLDERS = {"%programfiles%": r"C:\Program Files", "%programdata%": r"C:\ProgramData"}
_STAGE = r"C:\ProgramData\msp\stage"
_ROOM_FACTOR = 3


def _expand(path: str) -> str:
    for name, folder in _FOLDERS.items():
        if path.casefold().startswith(name):
            return folder + path[len(name) :]
    return path


def _text(parameters: Mapping[str, object], name: str) -> str:
    value = parameters.get(name)
    if not isinstance(value, str):
        raise ScriptFault("script-failed", f"the parameter {name} is missing.")
    return value


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _agent_path(parameters: Mapping[str, object]) -> str:
    return f"{_expand(_text(parameters, 'install_folder'))}\\{_text(parameters, 'file_name')}"


def _config_path(parameters: Mapping[str, object]) -> str | None:
    if not parameters.get("config_name"):
        return None
    return f"{_expand(_text(parameters, 'install_folder'))}\\{_text(parameters, 'config_name')}"


def _staged_path(parameters: Mapping[str, object]) -> str:
    return f"{_STAGE}\\{_text(parameters, 'stage_id')}\\{_text(parameters, 'file_name')}"


def _cut(machine: Machine, at: str) -> None:
    """The power goes here, once, when a test wants it to."""
    if machine.notes.get("power_cut_at") == at:
        del machine.notes["power_cut_at"]
        for service in machine.services.all():
            service.state = "stopped"
        raise ScriptFault("connection-lost", f"the power went when it was {at}.")


@answers("agent-state", sha256="798fd113b7ee19d134bb27638a747b6bc96779583856f7d9a581bcc850e01b8c")
def agent_state(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """What stands of the agent; touches nothing."""
    del payload
    path, config = _agent_path(parameters), _config_path(parameters)
    content = machine.files.read(path)
    traits = read_agent(content) if content is not None else None
    service = machine.services.find(_text(parameters, "service_name"))
    return {
        "installed": content is not None,
        "version": traits.version if traits else None,
        "file_sha256": _digest(content),
        "config_sha256": _digest(machine.files.read(config)) if config else None,
        "service_state": service.state if service else None,
        "service_path_ok": service is not None and service.binary.casefold() == path.casefold(),
        "staged_sha256": _digest(machine.files.read(_staged_path(parameters))) if parameters.get("stage_id") else None,
        "disk_free_bytes": machine.disk_free_bytes,
    }


@answers("agent-stage", sha256="9ba674d7c2353ef95ae18a0ff2092de91f787e5747c839641fdf5ed87a443159")
def agent_stage(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """Write the payload into the run's staging folder."""
    size_bytes = parameters.get("size_bytes")
    if not isinstance(size_bytes, int):
        raise ScriptFault("script-failed", "the parameter size_bytes is missing.")
    if machine.disk_free_bytes < _ROOM_FACTOR * size_bytes:
        raise ScriptFault("disk-full", f"{machine.disk_free_bytes} bytes are free.")
    if machine.notes.pop("staged_garbage", False):
        payload = payload[:-1]
    path = _staged_path(parameters)
    machine.files.write(path, payload)
    traits = read_agent(payload)
    if traits and traits.flagged and machine.defender.real_time_protection:
        machine.files.delete(path)
    content = machine.files.read(path)
    if content is None:
        raise ScriptFault("blocked-by-antivirus", "the file was gone as soon as it was written.")
    _cut(machine, "staged")
    return {"size_bytes": len(content), "sha256": _digest(content)}


@answers("agent-install", sha256="532256cfd4e8519097e50d3e4246dc68145e45d827bf86ae25e2050c605094ac")
def agent_install(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """Stop, swap, start; rolled back when the service does not start."""
    del payload
    path, name = _agent_path(parameters), _text(parameters, "service_name")
    recovered = not machine.files.exists(path) and machine.files.move(f"{path}.previous", path)
    before = _digest(machine.files.read(path))
    known = parameters.get("known_sha256")
    if before not in {None, _text(parameters, "sha256"), *(known if isinstance(known, list) else ())}:
        raise ScriptFault("changed-since-plan", f"the file there has the digest {before}.")
    service = machine.services.find(name)
    was_running = service is not None and service.state == "running"
    wanted = _wanted(parameters)
    same = {file for file, digest in wanted.items() if _digest(machine.files.read(file)) == digest}
    # A swap of an earlier run that nobody has seen work.
    unseen = {file for file in wanted if machine.files.exists(f"{file}.previous") and not was_running}
    path_ok = service is not None and service.binary.casefold() == path.casefold()
    changed = not (same == set(wanted) and was_running and path_ok)
    if changed:
        swapped = same & unseen
        try:
            _bring(machine, parameters, set(wanted) - same, unseen, swapped)
        except ScriptFault as fault:
            if fault.code == "connection-lost":
                raise  # nobody is left to roll back
            undone = "nothing had been there before" if before is None else "the file before is in its place"
            if machine.files.exists(f"{path}.previous") and (path in swapped or not machine.files.exists(path)):
                undone = "rolled back to the file before"
            for file in wanted:
                _undo(machine, file, swapped=file in swapped)
            if service is None:
                machine.services.delete(name)
            elif was_running or path in unseen & swapped:
                _start(machine, name, path)
            raise ScriptFault(fault.code, f"{fault.detail} ({undone})") from fault
    for file in wanted:
        machine.files.delete(f"{file}.previous")
    machine.files.delete(_staged_path(parameters))
    now = machine.services.find(name)
    return {"changed": changed, "recovered": recovered, "service_state": now.state if now else None}


def _wanted(parameters: Mapping[str, object]) -> dict[str, str | None]:
    """The digest that each file of the agent shall have."""
    config = _config_path(parameters)
    wanted: dict[str, str | None] = {_agent_path(parameters): _text(parameters, "sha256")}
    return {**wanted, config: _digest(base64.b64decode(_text(parameters, "config")))} if config else wanted


def _bring(
    machine: Machine, parameters: Mapping[str, object], missing: set[str], unseen: set[str], swapped: set[str]
) -> None:
    """Stop, bring what is missing into its place, start; ``swapped`` tells a caller what to undo."""
    path, config, name = _agent_path(parameters), _config_path(parameters), _text(parameters, "service_name")
    machine.stop_service(name)
    _cut(machine, "stopped")
    if path in missing:
        _check_staged(machine, _staged_path(parameters), _text(parameters, "sha256"))
        _place(machine, path, machine.files.read(_staged_path(parameters)) or b"", keep_previous=path in unseen)
        swapped.add(path)
        _check_placed(machine, path, _text(parameters, "sha256"))
        _cut(machine, "swapped")
    if config in missing:
        content = base64.b64decode(_text(parameters, "config"))
        _place(machine, str(config), content, keep_previous=config in unseen)
        swapped.add(str(config))
        _cut(machine, "configured")
    service = machine.services.find(name)
    if service is None:
        machine.services.create(Service(name, path, _text(parameters, "display_name")))
    else:
        service.binary, service.start = path, "auto"
    _start(machine, name, path)


def _check_placed(machine: Machine, path: str, wanted: str) -> None:
    if _digest(machine.files.read(path)) != wanted:
        raise ScriptFault("blocked-by-antivirus", "the file changed or vanished in its place.")


def _check_staged(machine: Machine, staged: str, wanted: str) -> None:
    content = machine.files.read(staged)
    if content is None:
        raise ScriptFault("blocked-by-antivirus", "the staged file is gone.")
    if _digest(content) != wanted:
        raise ScriptFault("digest-mismatch", "the staged file is another one.")


def _place(machine: Machine, path: str, content: bytes, *, keep_previous: bool) -> None:
    if not keep_previous:
        machine.files.move(path, f"{path}.previous")
    machine.files.write(path, content)


def _undo(machine: Machine, path: str, *, swapped: bool) -> None:
    previous = f"{path}.previous"
    if swapped or (machine.files.exists(previous) and not machine.files.exists(path)):
        machine.files.delete(path)
        machine.files.move(previous, path)


def _start(machine: Machine, name: str, path: str) -> None:
    """Start the service; a made-up agent itself says whether it can run."""
    traits = read_agent(machine.files.read(path) or b"")
    service = machine.services.find(name)
    if service is not None and service.start == "disabled":
        raise ScriptFault("install-failed", "the service is disabled.")
    if service is not None and traits is not None:
        service.start_failure = traits.start_failure
    machine.start_service(name)


@answers("agent-remove", sha256="d717e13af87e6334d48049d2f0f6d232d61b237899c2994da2bb342d428701bf")
def agent_remove(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """Take the agent away."""
    del payload
    path, config = _agent_path(parameters), _config_path(parameters)
    machine.stop_service(_text(parameters, "service_name"))
    removed = [machine.services.delete(_text(parameters, "service_name"))]
    for name in (path, config):
        removed += [machine.files.delete(f"{name}{end}") for end in ("", ".previous", ".new") if name]
    return {"removed": any(removed)}


@answers("scan-firewall", sha256="44bc61ea9cd46340a28eb00e51d57360d12b293c0a90dcda1d2445f9144dfa63")
def scan_firewall(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """The profiles of the firewall."""
    del parameters, payload
    state = machine.notes.get("firewall_service", "running")
    profiles = [{"name": name, "enabled": enabled} for name, enabled in machine.firewall.items()]
    return {"profiles": profiles if state == "running" else [], "service_state": state}


@answers("scan-defender", sha256="8aaa5a7100beedd52cb5872f6a0fd16776fb9ede4edd758d2166b09335a606b5")
def scan_defender(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """Microsoft Defender, and other antivirus on workstations."""
    del parameters, payload
    defender = machine.defender
    others = None if "Server" in machine.os_name else machine.notes.get("other_antivirus", [])
    return {
        "present": defender.present,
        "antivirus_enabled": defender.antivirus_enabled if defender.present else None,
        "real_time_protection": defender.real_time_protection if defender.present else None,
        "signature_age_days": defender.signature_age_days if defender.present else None,
        "tamper_protection": defender.tamper_protection if defender.present else None,
        "other_products": others,
    }


@answers("directory-computers", sha256="ea7efa567ba6d460a6a3f44b033455180f48a8dceac3d0e820b9c98e4ce42a76")
def directory_computers(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """The computers of the directory of which this machine is a controller: the entries in its note ``directory``."""
    del payload
    entries = machine.notes.get("directory")
    if not isinstance(entries, list):
        raise ScriptFault("script-failed", "the server is not operational.")
    base, names = _text(parameters, "base_dn").lower(), parameters.get("attributes")
    wanted = {str(name).lower() for name in names} if isinstance(names, list) else set()
    lines = []
    for entry in entries:
        if not entry.dn.lower().endswith(base) or b"computer" not in entry.folded.get("objectclass", ()):
            continue
        parts = [_base64(entry.dn.encode())]
        parts += [f"{name}={','.join(map(_base64, found))}" for name, found in entry.folded.items() if name in wanted]
        lines.append("\t".join(parts))
    packed = gzip.compress("".join(f"{line}\n" for line in lines).encode())
    return {"count": len(lines), "entries": _base64(packed)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
