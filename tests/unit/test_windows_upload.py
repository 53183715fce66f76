"""Uploads: in parts, resumed, checked by the host; against the WinRM endpoint."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import msp_sdk.testing.script_handlers
from msp_sdk import errors
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.wsman import HostsThread, WsmanHost
from msp_sdk.windows.scripts import load
from msp_sdk.windows.shell import WindowsShell
from msp_sdk.windows.upload import Uploads

assert msp_sdk.testing.script_handlers

CONTENT = hashlib.shake_256(b"agent").digest(2 * 2**20 + 17)
PATH = r"C:\ProgramData\msp\uploads\up-1\agent.exe"
PLACE = {"upload_id": "up-1", "file_name": "agent.exe"}


@pytest.fixture
def lab(tmp_path: Path) -> HostLab:
    return HostLab(tmp_path)


@pytest.fixture
def host(lab: HostLab) -> WsmanHost:
    return lab.host(https=False)


def within(lab: HostLab, host: WsmanHost, work: Callable[[WindowsShell], Awaitable[object]]) -> object:
    async def go() -> object:
        shells = lab.shells()
        try:
            async with shells.open(lab.target(host), lab.local_credential()) as shell:
                return await work(shell)
        finally:
            await shells.aclose()

    with HostsThread([host]):
        return asyncio.run(asyncio.wait_for(go(), 30))


async def put(shell: WindowsShell, data: bytes, *, size: int = len(CONTENT), sha256: str = "") -> object:
    parameters = {**PLACE, "offset": 0, "size_bytes": size, "sha256": sha256, "restart": False}
    return (await shell.run(load("upload"), parameters, deadline_s=10, payload=data)).value


def test_file_arrives_whole_in_parts_and_says_how_far_it_is(lab: HostLab, host: WsmanHost) -> None:
    seen: list[tuple[int, int]] = []

    async def work(shell: WindowsShell) -> object:
        uploads = Uploads(part_bytes=2**20)
        return await uploads.send(shell, CONTENT, **PLACE, progress=lambda held, whole: seen.append((held, whole)))

    done = within(lab, host, work)
    assert (done.path, done.size_bytes, done.resumed_bytes) == (PATH, len(CONTENT), 0)
    assert done.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert host.machine.files.read(PATH) == CONTENT
    assert seen == [(held, len(CONTENT)) for held in (2**20, 2 * 2**20, len(CONTENT))]
    # The messages grew: at 100 kB each these would be 29.
    assert host.operations.count("Send") <= 14


def test_upload_goes_on_where_the_last_one_ended(lab: HostLab, host: WsmanHost) -> None:
    async def work(shell: WindowsShell) -> object:
        await put(shell, CONTENT[: 2**20])
        host.operations.clear()
        return await Uploads().send(shell, CONTENT, **PLACE)

    done = within(lab, host, work)
    assert done.resumed_bytes == 2**20
    assert host.machine.files.read(PATH) == CONTENT


@pytest.mark.parametrize("there", [b"another file", CONTENT + b"x", bytes(len(CONTENT))])
def test_what_is_no_part_of_the_file_is_given_up(lab: HostLab, host: WsmanHost, there: bytes) -> None:
    host.machine.files.write(PATH, there)
    done = within(lab, host, lambda shell: Uploads().send(shell, CONTENT, **PLACE))
    assert done.resumed_bytes == 0
    assert host.machine.files.read(PATH) == CONTENT


def test_file_that_is_whole_already_is_not_sent_again(lab: HostLab, host: WsmanHost) -> None:
    host.machine.files.write(PATH, CONTENT)
    done = within(lab, host, lambda shell: Uploads().send(shell, CONTENT, **PLACE))
    assert done.resumed_bytes == len(CONTENT)
    assert host.operations.count("Send") == 2


def test_connection_that_is_lost_in_a_part_costs_that_part_alone(lab: HostLab, host: WsmanHost) -> None:
    def cut(held: int, whole: int) -> None:
        if held == 2**20:
            # The run and its repetition by the run's id: both are lost.
            host.faults.drop_before += ["Send", "Send", "Send"]

    async def work(shell: WindowsShell) -> object:
        return await Uploads(part_bytes=2**20).send(shell, CONTENT, **PLACE, progress=cut)

    done = within(lab, host, work)
    assert done.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert host.machine.files.read(PATH) == CONTENT


def test_whole_with_another_digest_is_a_mismatch_and_is_given_up(lab: HostLab, host: WsmanHost) -> None:
    async def work(shell: WindowsShell) -> str:
        with pytest.raises(errors.ScriptFailedError) as caught:
            await put(shell, b"evil", size=4, sha256="0" * 64)
        return caught.value.code

    assert within(lab, host, work) == "digest-mismatch"
    assert host.machine.files.read(PATH) == b""


@pytest.mark.parametrize("name", ["..", ".", "a/b", r"a\b", "a b", "", "x" * 101, "C:x"])
def test_name_that_could_lead_elsewhere_is_refused_by_the_host(lab: HostLab, host: WsmanHost, name: str) -> None:
    async def work(shell: WindowsShell) -> str:
        with pytest.raises(errors.ScriptFailedError) as caught:
            await Uploads().send(shell, b"data", upload_id="up-1", file_name=name)
        return caught.value.code

    assert within(lab, host, work) == "script-failed"


def test_full_disk_is_said_before_anything_is_sent(lab: HostLab, host: WsmanHost) -> None:
    host.machine.disk_free_bytes = 2**20

    async def work(shell: WindowsShell) -> str:
        with pytest.raises(errors.ScriptFailedError) as caught:
            await Uploads().send(shell, CONTENT, **PLACE)
        return caught.value.code

    assert within(lab, host, work) == "disk-full"
    assert host.operations.count("Send") == 1


def test_no_more_than_so_many_go_at_once(lab: HostLab) -> None:
    hosts = [lab.host("SRV1", https=False) for _ in range(2)]
    order: list[int] = []

    async def one(shells, number: int, uploads: Uploads) -> None:
        async with shells.open(lab.target(hosts[number]), lab.local_credential()) as shell:
            await uploads.send(shell, CONTENT[: 2**18], **PLACE, progress=lambda *_: order.append(number))

    async def go() -> None:
        shells, uploads = lab.shells(), Uploads(at_once=1, part_bytes=2**16)
        await asyncio.gather(*(one(shells, number, uploads) for number in range(2)))
        await shells.aclose()

    with HostsThread(hosts):
        asyncio.run(go())
    assert order in ([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)
