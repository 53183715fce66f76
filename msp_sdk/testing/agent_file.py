"""The file of a made-up agent: what the virtual machines take for a Windows executable.

It begins as one does and ends with a line of JSON, in which a machine reads its version and how it behaves.

Example:
    >>> read_agent(build_agent_file("1.2.0")).version
    '1.2.0'
"""

from __future__ import annotations

import hashlib
import json

from attrs import asdict, frozen

AGENT_SIZE_BYTES = 200_000
_MARK = b"\nMSP-DEMO-AGENT "


@frozen
class AgentTraits:
    """What a machine reads in a made-up agent.

    Attributes:
        version: As the file's version information has it.
        start_failure: Why its service stops at once; None when it runs.
        flagged: True when the antivirus takes the file away.
    """

    version: str
    start_failure: str | None = None
    flagged: bool = False


def build_agent_file(
    version: str,
    *,
    name: str = "demo-agent",
    start_failure: str | None = None,
    flagged: bool = False,
    size_bytes: int = AGENT_SIZE_BYTES,
) -> bytes:
    """The bytes of an agent, the same for the same arguments. They do not compress."""
    traits = AgentTraits(version, start_failure, flagged)
    trailer = _MARK + json.dumps(asdict(traits), sort_keys=True).encode()
    stream = hashlib.shake_256(f"{name} {version}".encode()).digest(max(0, size_bytes - len(trailer) - 2))
    return b"MZ" + stream + trailer


def read_agent(content: bytes) -> AgentTraits | None:
    """What a machine reads in a file; None when it is no made-up agent."""
    begin = content.rfind(_MARK)
    if not content.startswith(b"MZ") or begin < 0:
        return None
    try:
        return AgentTraits(**json.loads(content[begin + len(_MARK) :]))
    except (ValueError, TypeError):
        return None
