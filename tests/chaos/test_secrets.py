"""After the whole job, and while it runs, no password of the estate lies or passes where it should not."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import pytest

from runners.cli.demo_world import DemoWorld, WorldSpec, wait_for_phase

pytestmark = pytest.mark.slow


def shapes(secret: str) -> tuple[bytes, ...]:
    """The secret as it may lie about: plain, as Windows writes it, in hex, in base64 at any offset, in a URL."""
    plain = secret.encode()
    wide = secret.encode("utf-16-le")
    encoded = []
    for offset in range(3):
        text = base64.b64encode(b"\0" * offset + plain)
        # The first and last letters depend on the neighbours.
        encoded += [text[4:-4], text[4:-4].translate(bytes.maketrans(b"+/", b"-_"))]
    return (plain, wide, plain.hex().encode(), plain.hex().upper().encode(), *encoded, quote(secret, safe="").encode())


def find(secret: str, folders: Iterable[Path]) -> list[str]:
    """Where the secret is: files below the folders, and every process's arguments."""
    wanted = shapes(secret)
    places = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    places += list(Path("/proc").glob("[0-9]*/cmdline"))
    found = []
    for path in places:
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if any(shape in content for shape in wanted):
            found.append(str(path))
    return found


def open_to_others(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]


def test_the_search_finds_a_planted_password(tmp_path: Path) -> None:
    secret = "planted-Pa55-word-for-the-search"
    assert find(secret, [tmp_path]) == []
    (tmp_path / "deep").mkdir()
    for name, content in (
        ("plain.log", f"password={secret}\n".encode()),
        ("wide.bin", b"\1" + secret.encode("utf-16-le")),
        ("coded.txt", base64.b64encode(f"xy{secret}z".encode())),
        ("hex.txt", secret.encode().hex().encode()),
    ):
        path = tmp_path / "deep" / name
        path.write_bytes(content)
        assert find(secret, [tmp_path]) == [str(path)]
        path.unlink()
    command = [sys.executable, "-c", "print('here', flush=True); input()", secret]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert find(secret, [tmp_path]) == [f"/proc/{process.pid}/cmdline"]
        finally:
            process.kill()


async def assert_for_its_owner_alone(world: DemoWorld, folder: Path) -> None:
    key = (await asyncio.to_thread(world.config.read_text)).split("api_key:")[1].split()[0]
    assert await asyncio.to_thread(find, key, [folder]) == [str(world.config)]
    assert open_to_others(folder / "appliance") == []
    assert [path for path in open_to_others(folder) if "central.db" in path and path.endswith(".key")] == []


def test_no_password_lies_or_passes_anywhere_in_the_whole_job_and_the_appliances_secrets_are_its_owners(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        seen: set[str] = set()
        async with DemoWorld(tmp_path, WorldSpec(computers=12)) as world:
            password = world.facts["password"]

            async def watch() -> None:
                while True:
                    seen.update(await asyncio.to_thread(find, password, [tmp_path]))
                    await asyncio.sleep(0.1)

            watcher = asyncio.create_task(watch())
            await world.claim()
            await world.start_appliance()
            await wait_for_phase(world, "awaiting_credentials")
            await assert_for_its_owner_alone(world, tmp_path)
            await world.give_credential()
            await wait_for_phase(world, "complete")
            watcher.cancel()
            seen.update(find(password, [tmp_path]))
            assert seen == set()
            assert await asyncio.to_thread((tmp_path / "appliance.log").read_bytes)
            await world.kill_appliance()
        assert find(password, [tmp_path]) == []

    asyncio.run(run())
