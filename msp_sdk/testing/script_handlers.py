"""What virtual machines do when they are sent the scripts of deployment and compliance.

Each handler states what its script does, step by step, and is bound to the digest of the script's text. After a
change of a script read its handler again, then write the new digest here.

A machine's ``notes`` steer it: ``power_cut_at`` (``staged``, ``stopped``, ``swapped``) cuts the next run off there,
once; ``staged_garbage`` spoils what arrives, once; ``other_antivirus`` is a list of products.
"""

from __future__ import annotations

import base64
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


@answers("agent-stage", sha256="4350cf9000621244e88801814e9b7b1d9c474f16517eb2e4bdc30b48dd3ac8bc")
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


@answers("agent-install", sha256="9184009caddd7fee1990b3018766aa587a40136e62d060af279ff2dfd9b09621")
def agent_install(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """Stop, swap, start; rolled back when the service does not start."""
    del payload
    path, config = _agent_path(parameters), _config_path(parameters)
    name, wanted = _text(parameters, "service_name"), _text(parameters, "sha256")
    recovered = not machine.files.exists(path) and machine.files.move(f"{path}.previous", path)
    before = machine.files.read(path)
    known = parameters.get("known_sha256")
    if before is not None and _digest(before) not in {wanted, *(known if isinstance(known, list) else ())}:
        raise ScriptFault("changed-since-plan", f"the file there has the digest {_digest(before)}.")
    service = machine.services.find(name)
    was_running = service is not None and service.state == "running"
    config_before = machine.files.read(config) if config else None
    config_wanted = base64.b64decode(_text(parameters, "config")) if config else None
    path_ok = service is not None and service.binary.casefold() == path.casefold()
    changed = not (_digest(before) == wanted and config_before == config_wanted and was_running and path_ok)
    if changed:
        try:
            machine.stop_service(name)
            _cut(machine, "stopped")
            if _digest(before) != wanted:
                _swap(machine, _staged_path(parameters), path, wanted)
                _cut(machine, "swapped")
            if config and config_wanted is not None and config_before != config_wanted:
                machine.files.write(config, config_wanted)
            if service is None:
                machine.services.create(Service(name, path, _text(parameters, "display_name")))
            else:
                service.binary = path
            _start(machine, name, path)
        except ScriptFault as fault:
            if fault.code == "connection-lost":
                raise  # nobody is left to roll back
            undone = _roll_back(machine, path, before, config, config_before)
            if service is None:
                machine.services.delete(name)
            elif was_running:
                _start(machine, name, path)
            raise ScriptFault(fault.code, f"{fault.detail} ({undone})") from fault
    machine.files.delete(f"{path}.previous")
    machine.files.delete(_staged_path(parameters))
    now = machine.services.find(name)
    return {"changed": changed, "recovered": recovered, "service_state": now.state if now else None}


def _swap(machine: Machine, staged: str, path: str, wanted: str) -> None:
    content = machine.files.read(staged)
    if content is None:
        raise ScriptFault("blocked-by-antivirus", "the staged file is gone.")
    if _digest(content) != wanted:
        raise ScriptFault("digest-mismatch", "the staged file is another one.")
    machine.files.move(path, f"{path}.previous")
    machine.files.write(path, content)
    if _digest(machine.files.read(path)) != wanted:
        raise ScriptFault("blocked-by-antivirus", "the file changed or vanished in its place.")


def _start(machine: Machine, name: str, path: str) -> None:
    """Start the service; a made-up agent itself says whether it can run."""
    traits = read_agent(machine.files.read(path) or b"")
    service = machine.services.find(name)
    if service is not None and traits is not None:
        service.start_failure = traits.start_failure
    machine.start_service(name)


def _roll_back(machine: Machine, path: str, before: bytes | None, config: str | None, old: bytes | None) -> str:
    machine.files.delete(f"{path}.previous")
    for name, content in ((path, before), (config, old)):
        if name is not None:
            machine.files.delete(name)
            if content is not None:
                machine.files.write(name, content)
    return "nothing had been there before" if before is None else "rolled back to the file before"


@answers("agent-remove", sha256="c0a4417f701560581bc52dcf128e6bdb87fdd480a05747bfd847eb4b3a90103f")
def agent_remove(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """Take the agent away."""
    del payload
    path, config = _agent_path(parameters), _config_path(parameters)
    machine.stop_service(_text(parameters, "service_name"))
    removed = [machine.services.delete(_text(parameters, "service_name"))]
    for name in (path, config):
        removed += [machine.files.delete(f"{name}{end}") for end in ("", ".previous", ".new") if name]
    return {"removed": any(removed)}


@answers("scan-firewall", sha256="526dca5d30842bf645b4e619285ac39807e2c5fdf4604e43ab6f05d975c7c520")
def scan_firewall(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """The profiles of the firewall."""
    del parameters, payload
    profiles = [{"name": name, "enabled": enabled} for name, enabled in machine.firewall.items()]
    return {"profiles": profiles, "service_state": machine.notes.get("firewall_service", "running")}


@answers("scan-defender", sha256="4c3bc55ccae5a2d7aafa0a4ed660612af2bd7d068eff859250d5a4cd7e0edba5")
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
