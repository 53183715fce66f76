"""What is dear to build is built once, however many runs want it at once, and never trusted when it is broken."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.cache import KEPT_FOR_S, unpack_or_build

CONTENT = b"made" * 100_000


class Builder:
    def __init__(self) -> None:
        self.times = 0
        self.at_once = threading.Lock()

    def __call__(self, folder: Path) -> None:
        assert self.at_once.acquire(blocking=False), "two built at once"
        self.times += 1
        time.sleep(0.05)
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(CONTENT)
        self.at_once.release()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "msp-sdk"


def fill(place: Path, builder: Builder, recipe: bytes = b"recipe") -> None:
    place.mkdir()
    unpack_or_build(place, builder, recipe)
    assert (place / "deep" / "file").read_bytes() == CONTENT
    assert [entry.name for entry in place.iterdir()] == ["deep"]


def kept(home: Path) -> Path:
    (found,) = home.glob("*.tar.gz")
    return found


def test_it_is_built_once_and_unpacked_from_then_on(home, tmp_path):
    builder = Builder()
    for number in range(3):
        fill(tmp_path / str(number), builder)
    assert builder.times == 1


def test_runs_at_once_build_it_once(home, tmp_path):
    builder = Builder()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: fill(tmp_path / str(number), builder), range(4)))
    assert builder.times == 1


def test_another_recipe_is_another_product(home, tmp_path):
    builder = Builder()
    fill(tmp_path / "one", builder)
    fill(tmp_path / "other", builder, b"another recipe")
    assert builder.times == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_broken_one_is_built_anew(home, tmp_path, damage):
    builder = Builder()
    fill(tmp_path / "one", builder)
    content = kept(home).read_bytes()
    middle = len(content) // 2
    kept(home).write_bytes(
        {
            "cut": content[:-100],
            "flipped": content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :],
            "empty": b"",
            "foreign": b"no archive at all",
        }[damage]
    )
    fill(tmp_path / "other", builder)
    assert builder.times == 2
    fill(tmp_path / "third", builder)
    assert builder.times == 2


def test_kept_one_is_for_its_owner_alone_and_nothing_half_written_stays(home, tmp_path):
    fill(tmp_path / "one", Builder())
    assert kept(home).stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    assert {entry.suffix for entry in home.iterdir()} == {".gz", ".lock"}


def test_old_one_is_built_anew(home, tmp_path):
    builder = Builder()
    fill(tmp_path / "one", builder)
    then = time.time() - KEPT_FOR_S - 60
    os.utime(kept(home), (then, then))
    fill(tmp_path / "other", builder)
    assert builder.times == 2
