"""The clients that :mod:`tests.bench.windows` compares. Run as a program: one client, one measurement, JSON on stdout.

Each does the same: log on, make a shell, run so many scripts in it or each in its own as the client has it, clean up.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Work = dict[str, Any]

USER = "CORP\\svc"
DOORS = ("sealed", "tls", "tls-system")


def by_pywinrm(work: Work) -> None:
    """Plain ``run_ps``: a shell and a logon each time."""
    import winrm

    tls = work["door"] != "sealed"
    options: dict[str, Any] = {}
    if work["door"] == "tls-system":
        # What many do: no verification, and the system's bundle is read all the same.
        options["server_cert_validation"] = "ignore"
    elif tls:
        options["ca_trust_path"] = work["ca"]

    def one(host: list[str]) -> None:
        name, address = host
        del name
        where = f"https://{address}:5986/wsman" if tls else f"http://{address}:5985/wsman"
        session = winrm.Session(where, auth=(USER, work["password"]), transport="ntlm", **options)
        for _ in range(work["scripts"]):
            answer = session.run_ps("'done'")
            assert answer.std_out == b"done\r\n", answer

    _in_threads(work, one)


def by_pypsrp(work: Work) -> None:
    """WinRS: one shell a host, a process a script."""
    from pypsrp.shell import Process, SignalCode, WinRS
    from pypsrp.wsman import WSMan

    tls = work["door"] != "sealed"

    def one(host: list[str]) -> None:
        _, address = host
        wsman = WSMan(
            address,
            ssl=tls,
            port=5986 if tls else 5985,
            auth="ntlm",
            username=USER,
            password=work["password"],
            cert_validation=work["ca"] if work["door"] == "tls" else False,
        )
        with wsman, WinRS(wsman) as shell:
            for _ in range(work["scripts"]):
                process = Process(shell, "powershell.exe", ["-NoProfile", "-EncodedCommand", "JwBkAG8AbgBlACcA"])
                process.invoke()
                process.signal(SignalCode.TERMINATE)
                assert process.stdout == b"done\r\n", process.stdout

    _in_threads(work, one)


def _in_threads(work: Work, one: Callable[[list[str]], None]) -> None:
    with ThreadPoolExecutor(work["at_once"]) as pool:
        for _ in pool.map(one, work["hosts"]):
            pass


def by_us(work: Work) -> None:
    """``WindowsShells``, with its ledger on disk: one shell and one process a host."""
    asyncio.run(_by_us(work))


async def _by_us(work: Work) -> None:
    from msp_sdk.windows.scripts import load
    from msp_sdk.windows.upload import Uploads

    shells, credential, targets = _ours(work)
    pending = iter(targets)

    async def worker() -> None:
        for target in pending:
            async with shells.open(target, credential) as shell:
                for _ in range(work["scripts"]):
                    await shell.run(load("identify"), {}, deadline_s=60)
                if work.get("upload_bytes"):
                    content = os.urandom(1) * work["upload_bytes"]
                    await Uploads().send(shell, content, upload_id=target.hostname.lower(), file_name="f.bin")

    try:
        await asyncio.gather(*(worker() for _ in range(work["at_once"])))
    finally:
        await shells.aclose()


def _ours(work: Work) -> tuple[Any, Any, list[Any]]:
    from msp_sdk.models.credential import Credential
    from msp_sdk.models.target import Target
    from msp_sdk.network.logons import LogonLedger
    from msp_sdk.secret import Secret
    from msp_sdk.windows.shell import HostPolicy, ShellOptions, WindowsShells

    ledger = LogonLedger(Path(tempfile.mkdtemp(dir=work["folder"])) / "ledger.db")
    password = work["password"]
    credential = Credential(
        "c1", 1, "service_account", "svc@corp.example", lambda: Secret(password), domain_name="corp.example"
    )
    with ledger.attempt(credential, place="controller", host="dc1") as attempt:
        attempt.succeeded()
    policy = HostPolicy(allow_ntlm=True, trusted_cas=(Path(work["ca"]).read_text(encoding="ascii"),))
    options = ShellOptions(threads=work["at_once"])
    targets = [
        Target(
            hostname=name,
            role="workstation",
            fqdn=f"{name.lower()}.corp.example",
            domain_name="corp.example",
            ip_addresses=(address,),
            use_ssl=work["door"] != "sealed",
            port=5985 if work["door"] == "sealed" else 5986,
        )
        for name, address in work["hosts"]
    ]
    return WindowsShells(ledger, policy=lambda: policy, options=options), credential, targets


CLIENTS: dict[str, Callable[[Work], None]] = {"ours": by_us, "pywinrm": by_pywinrm, "pypsrp": by_pypsrp}


def main() -> None:
    """Warm up on one host, then measure."""
    warnings.simplefilter("ignore")
    work = json.load(sys.stdin)
    client = CLIENTS[sys.argv[1]]
    client({**work, "hosts": work["hosts"][:1], "at_once": 1, "upload_bytes": 0})
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    os.read(3, 1)
    cpu_s, begun = time.process_time(), time.perf_counter()
    if sys.argv[2:] == ["profile"]:
        _profiled(client, work)
    else:
        client(work)
    sys.stdout.write(json.dumps({"cpu_s": time.process_time() - cpu_s, "wall_s": time.perf_counter() - begun}))


def _profiled(client: Callable[[Work], None], work: Work) -> None:
    import cProfile
    import pstats
    import threading

    profiles: list[cProfile.Profile] = []
    mine = cProfile.Profile()

    def begin(*_: object) -> None:
        profile = cProfile.Profile()
        profiles.append(profile)
        profile.enable()

    threading.setprofile(begin)
    mine.enable()
    client(work)
    mine.disable()
    for profile in profiles:
        profile.create_stats()
    stats = pstats.Stats(mine, *profiles, stream=sys.stderr)
    stats.sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
