"""The daemon as a process: it moves to another site, and ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any

from attrs import evolve

from msp_sdk.models.provision import ProvisionRequest
from msp_sdk.models.site import NewSite
from msp_sdk.provisioning import load_config, save_config
from msp_sdk.secret import Secret
from runners.appliance.claiming import claim
from runners.appliance.daemon import run_appliance
from tests.unit.appliance_lab import until


async def seen(lab: Any, site_id: str) -> None:
    """Wait for an appliance's first check-in at a site."""
    async with asyncio.timeout(20):
        while True:
            if any(entry.last_seen_at for entry in await lab.partner.appliances(site_id)):
                return
            await asyncio.sleep(0.1)


def test_config_of_another_site_begins_anew_and_takes_nothing_along(open_lab: Callable[..., Any]) -> None:
    """What one customer's network told us must not reach another customer's site."""

    async def run() -> None:
        async with open_lab(checkin_interval_seconds=0.3) as lab:
            await lab.give_credential()
            settings = evolve(lab.settings, ca_file=None)
            other = await lab.partner.create_site(NewSite("Another clinic", checkin_interval_seconds=0.3))
            work = asyncio.create_task(run_appliance(settings))
            try:
                state = settings.state_folder
                await until((state / "enumeration-northvalley.test.json").exists, 20)
                settings.outbox_folder.joinpath("000000099999-ScanReport.json").write_text(
                    '{"report_id": "left-over", "results": []}'
                )
                code = await lab.partner.create_provision(ProvisionRequest(site_id=other.site_id))
                elsewhere = evolve(settings, config=settings.config.parent.parent / "elsewhere" / "config.yaml")
                await claim(elsewhere, Secret(code.provision_code or ""))
                settings.keys_file.write_bytes(elsewhere.keys_file.read_bytes())
                save_config(settings.config, load_config(elsewhere.config))
                await seen(lab, other.site_id)
                assert not (state / "enumeration-northvalley.test.json").exists()
                assert not settings.outbox_folder.joinpath("000000099999-ScanReport.json").exists()
                assert (state / "logons.db").exists(), "strikes count for accounts, wherever we belong"
                with sqlite3.connect(state / "logons.db") as ledger:
                    assert ledger.execute("SELECT count(*) FROM version").fetchone() == (1,)
                ledger.close()
                assert await lab.partner.computers(other.site_id) == ()
            finally:
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work

    asyncio.run(run())


def test_sigterm_ends_the_daemon_in_seconds_though_a_thread_is_blocked(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(checkin_interval_seconds=0.3) as lab:
            await lab.give_credential()
            host, port = lab.estate.dns.server
            for server in lab.estate.directories:
                server.faults.delay_s = 60.0
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "runners.appliance",
                env={"MSP_CONFIG": str(lab.settings.config), "MSP_RESOLVERS": f"{host}:{port}",
                     "MSP_SEARCH": lab.estate.spec.domain, "PATH": "/usr/bin:/bin"},
                stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            try:
                await seen(lab, lab.site_id)
                await asyncio.sleep(1)
                begun = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(process.wait(), 15) == 0
                assert time.monotonic() - begun < 8
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    asyncio.run(run())
