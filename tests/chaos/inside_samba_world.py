"""A whole site inside the namespace of a Samba controller: Central, the appliance's daemon, Windows hosts.

Run as a process in the namespace, ``python -m tests.chaos.inside_samba_world STORY``: the controller's facts are JSON
on stdin, and so is what happened on stdout.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from runners.cli.demo_world import DemoWorld, WorldSpec, wait_for_phase
from runners.cli.processes import Child
from tests.chaos.waiting import LONGER_THAN_A_BACK_OFF_S, OFTEN_S, wait_for_check_ins
from tests.lab.controller import DOMAIN, NETBIOS, run_samba_script

PATIENCE_S = 60
JOINING = {"name": "JOINED1", "address": "10.99.0.31", "door": "https", "os_name": "Windows 11 Pro"}
# Of the computers that samba_database.py makes: where WinRM is, and what is true of each in the end.
DOORS = {"FILE1": "https", "SQL1": "http", "FRONTDESK1": "silent"}
TRUTH = {
    # Samba says so itself.
    "DC1": "not-windows",
    "FILE1": "agent",
    "SQL1": "agent",
    "FRONTDESK1": "no-answer",
    # lesson 61: by its name an imaging station.
    "XRAY1": "vendor-managed",
    "OLDSRV": "disabled-account",
    "PRESTAGED1": "new",
    "LINUX1": "not-windows",
}


class SambaWorld(DemoWorld):
    """The demo's world with a real directory: its estate is Windows hosts alone.

    Args:
        given: ``folder`` of the controller, its ``dns``, ``certificate_sha256``, and the account's ``username`` and
            ``password``.
    """

    def __init__(self, folder: Path, given: dict[str, Any]) -> None:
        super().__init__(folder, WorldSpec(interval_s=OFTEN_S))
        self._given = given
        self.samba_folder = Path(given["folder"])

    async def _child(self, name: str, module: str, arguments: Sequence[str], **environ: str) -> Child:
        if name != "estate":
            return await super()._child(name, module, arguments, **environ)
        hosts = await super()._child(name, "tests.chaos.samba_hosts", ())
        assert hosts.process.stdin is not None
        hosts.process.stdin.write(json.dumps(await self._order()).encode() + b"\n")
        return hosts

    async def _order(self) -> dict[str, Any]:
        known = await self.samba("computers")
        return {
            **self._given,
            "username": self._given["username"].split("@")[0],
            "domain": DOMAIN,
            "netbios_name": NETBIOS,
            "machines": [
                {"name": name, "door": door, **known[name], "keytab": await self.keys_of(name)}
                for name, door in DOORS.items()
            ],
            "truth": [{"name": name, "truth": truth} for name, truth in TRUTH.items()],
        }

    async def samba(self, what: str, **more: Any) -> dict[str, Any]:
        """Look into the directory's database, or change it."""
        return await asyncio.to_thread(run_samba_script, self.samba_folder, {"do": what, **more})

    async def keys_of(self, name: str) -> str:
        """A file with a computer's keys, for whoever plays it."""
        file = str(self.folder / f"{name}.keytab")
        await self.samba("keytab", account=name, file=file)
        return file

    async def strikes(self) -> int:
        """What the controller has counted."""
        return int((await self.samba("bad-password-count", account="svc-msp"))["count"])


async def until(true: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for something to become true."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await true():  # noqa: ASYNC110 (what is waited for is in another process)
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"after {PATIENCE_S} s it is not true that {what}") from None


async def walk(world: SambaWorld) -> dict[str, Any]:
    """From the code to complete; then a computer joins."""
    await world.claim()
    await world.start_appliance()
    await wait_for_phase(world, "awaiting_credentials")
    await world.give_credential()
    await wait_for_phase(world, "complete")
    story: dict[str, Any] = {"mistakes": await world.mistakes()}

    async def said() -> tuple[str, str | None] | None:
        found = [host for host in await world.hosts() if host.hostname.upper() == JOINING["name"]]
        return (found[0].state, found[0].reason) if found else None

    # It joins: no system, name or address before its restart.
    await world.samba("join", name=JOINING["name"])
    check_ins: set[object] = set()

    async def listed() -> bool:
        check_ins.update(box.last_seen_at for box in await world.partner.appliances(world.site.site_id))
        return await said() == ("skipped", "new")

    await until(listed, "the computer that joined is listed as new")
    story["check_ins_until_listed"] = len(check_ins)
    sid = (await world.samba("computers"))[JOINING["name"]]["sid"]
    keytab = await world.keys_of(JOINING["name"])
    await world.ask_estate(json.dumps({**JOINING, "sid": sid, "keytab": keytab}))
    await world.samba("describe", name=JOINING["name"], os_name=JOINING["os_name"], address=JOINING["address"])

    async def deployed() -> bool:
        return await said() == ("agent", None)

    try:
        await until(deployed, "the computer that joined runs the agent")
    except AssertionError as error:
        error.add_note(f"it is {await said()}; of all: {await world.hosts()}")
        raise
    world.facts["computers"] = [*world.facts["computers"], {"name": JOINING["name"], "truth": "agent"}]
    machines = await world.ask_estate("machines")
    return {
        **story,
        "by_ticket": sorted(name for name, facts in machines.items() if facts["tickets"]),
        "mistakes_after": await world.mistakes(),
        "strikes": await world.strikes(),
        "phase": (await world.partner.status(world.site.site_id)).phase,
    }


async def wrong_password(world: SambaWorld) -> dict[str, Any]:
    """A password that is wrong at every door."""
    await world.claim()
    await world.start_appliance()
    await wait_for_phase(world, "awaiting_credentials")
    stored = await world.give_credential(wrong=True)

    async def refused(version: int) -> bool:
        (now,) = await world.partner.credentials(world.site.site_id)
        return now.version == version and now.state == "refused" and now.state_code == "wrong-password"

    strikes = []
    await until(lambda: refused(stored.version), "the partner is told")
    await asyncio.sleep(LONGER_THAN_A_BACK_OFF_S)
    strikes.append(await world.strikes())
    await world.kill_appliance()
    await world.start_appliance()
    await wait_for_check_ins(world, 4)
    strikes.append(await world.strikes())
    retried = await world.partner.retry_credential(world.site.site_id, stored.id)
    await until(lambda: refused(retried.version), "the partner is told again")
    await wait_for_check_ins(world, 4)
    strikes.append(await world.strikes())
    return {"strikes": strikes, "at_hosts": await world.ask_estate("accounts")}


STORIES = {"walk": walk, "wrong-password": wrong_password}


async def main() -> None:
    """Tell the story that was asked for."""
    given = json.loads(sys.stdin.read())
    async with SambaWorld(Path(given.pop("work")), given) as world:
        story = await STORIES[sys.argv[1]](world)
    sys.stdout.write(json.dumps(story) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
