"""pywinrm and pypsrp run every registered script on one host, each as its users run it.

As a program (``python -m tests.contract.foreign_clients CLIENT ADDRESS DOOR CA``) it does so with Kerberos: libraries
for that take their settings from the process' environment. It prints the outcomes as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pypsrp.shell import Process, SignalCode, WinRS
from pypsrp.wsman import WSMan
from winrm.protocol import Protocol

from msp_sdk.windows.envelope import ARGUMENTS, COMMAND, encode_input, parse_envelope
from msp_sdk.windows.scripts import Script, load, names

PAYLOAD = b"test"
HOSTNAME = "srv1.corp.example"

# A script's name, and its value or the reason code of its refusal.
Outcome = tuple[str, object]


def example(script: Script) -> dict[str, object]:
    """Parameters that fit."""
    assert script.contract is not None
    return dict(script.contract.example_input)


def stdin(script: Script) -> bytes:
    """All that the bootstrap reads for one script."""
    encoded = encode_input(script, example(script), f"run-{script.name}", PAYLOAD)
    return b"".join(piece for piece, _ in encoded.pieces(10**6))


def outcome(script: Script, stdout: bytes) -> Outcome:
    """What a script answered."""
    envelope = parse_envelope(stdout, f"run-{script.name}", script=script.name)
    return (script.name, dict(envelope.value) if envelope.ok else envelope.code)


def by_pywinrm(address: str, ca: Path, *, tls: bool, auth: str, username: str, password: str) -> Iterator[Outcome]:
    """One shell for all; each script in a process of its own, since its stdin ends with the script."""
    protocol = Protocol(
        f"https://{address}:5986/wsman" if tls else f"http://{address}:5985/wsman",
        transport=auth,
        username=username,
        password=password,
        ca_trust_path=str(ca),
        kerberos_hostname_override=HOSTNAME,
        proxy=None,
    )
    shell = protocol.open_shell(codepage=65001)
    for script in map(load, names()):
        command = protocol.run_command(shell, COMMAND, ARGUMENTS, console_mode_stdin=False)
        protocol.send_command_input(shell, command, stdin(script), end=True)
        stdout, stderr, code = protocol.get_command_output(shell, command)
        protocol.cleanup_command(shell, command)
        assert (stderr, code) == (b"", 0)
        yield outcome(script, stdout)
    protocol.close_shell(shell)


def by_pypsrp(address: str, ca: Path, *, tls: bool, auth: str, username: str, password: str) -> Iterator[Outcome]:
    """WinRS with its defaults: through cmd.exe, and nothing said of the console."""
    wsman = WSMan(
        address,
        ssl=tls,
        port=5986 if tls else 5985,
        auth=auth,
        username=username,
        password=password,
        cert_validation=str(ca),
        negotiate_hostname_override=HOSTNAME,
    )
    with wsman, WinRS(wsman) as shell:
        for script in map(load, names()):
            process = Process(shell, COMMAND, list(ARGUMENTS))
            process.begin_invoke()
            process.send(stdin(script), end=True)
            process.end_invoke()
            process.signal(SignalCode.TERMINATE)
            assert (process.stderr, process.rc) == (b"", 0)
            yield outcome(script, process.stdout)


def _take_ticket(username: str, password: str) -> None:
    """pywinrm takes no password for Kerberos; a ticket has to lie in the cache that the environment names."""
    import gssapi

    name = gssapi.Name(username, gssapi.NameType.user)
    taken = gssapi.raw.acquire_cred_with_password(name, password.encode(), usage="initiate")
    gssapi.Credentials(base=taken.creds, usage="initiate").store(
        {"ccache": os.environ["KRB5CCNAME"]}, usage="initiate", overwrite=True, set_default=True
    )


if __name__ == "__main__":
    client, to, door, ca_file = sys.argv[1:]
    user, word = os.environ["TEST_USER"], os.environ["TEST_PASSWORD"]
    _take_ticket(user, word)
    run = by_pywinrm if client == "pywinrm" else by_pypsrp
    done = run(to, Path(ca_file), tls=door == "tls", auth="kerberos", username=user, password=word)
    print(json.dumps(list(done)))  # noqa: T201 (its answer)
