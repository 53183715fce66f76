"""The controllers of the lab; each stands for a whole test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.controller import SambaLab, samba_controller

MANY = 10_000


@pytest.fixture(scope="session")
def samba() -> Iterator[SambaLab]:
    """A small clinic; one for the whole test run."""
    with samba_controller() as lab:
        yield lab


@pytest.fixture(scope="session")
def big_samba() -> Iterator[SambaLab]:
    """A directory of 10,000 computers with names of every kind; built once and kept in the user's cache."""
    with samba_controller(computers=MANY) as lab:
        yield lab
