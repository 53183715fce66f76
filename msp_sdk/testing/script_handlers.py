"""What virtual machines do when they are sent the scripts of compliance and enumeration.

Those of deployment are in :mod:`msp_sdk.testing.agent_handlers`; importing this module registers all of them.

Each handler states what its script does, step by step, and is bound to the digest of the script's text. After a
change of a script read its handler again, then write the new digest here.

A machine's ``notes`` steer it: ``firewall_service`` is the state of the firewall's service, ``other_antivirus`` a list
of products, and ``directory`` holds the entries of the directory of which the machine is a controller.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping

import sansldap

import msp_sdk.testing.agent_handlers
import msp_sdk.testing.upload_handler  # noqa: F401 (both register who answers the scripts of deployment)
from msp_sdk.testing.directory_filter import fold_dn, in_scope, is_known, matches
from msp_sdk.testing.windows_host import Machine, ScriptFault, answers, text_parameter


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
    base, names = fold_dn(text_parameter(parameters, "base_dn")), parameters.get("attributes")
    try:
        passes = sansldap.LDAPFilter.from_string(text_parameter(parameters, "filter"))
    except ValueError as error:
        raise ScriptFault("script-failed", "the search filter is invalid.") from error
    if not is_known(passes):
        raise ScriptFault("script-failed", "the stand-in does not know this search filter.")
    wanted = {str(name).lower() for name in names} if isinstance(names, list) else set()
    lines = []
    for entry in entries:
        if not in_scope(fold_dn(entry.dn), base, sansldap.SearchScope.SUBTREE) or not matches(passes, entry):
            continue
        parts = [_base64(entry.dn.encode())]
        parts += [f"{name}={','.join(map(_base64, found))}" for name, found in entry.folded.items() if name in wanted]
        lines.append("\t".join(parts))
    packed = gzip.compress("".join(f"{line}\n" for line in lines).encode())
    return {"count": len(lines), "entries": _base64(packed)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
