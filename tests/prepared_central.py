"""A Central that is ready to start: an empty database is brought to its schema once a process, and copied."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from central_app.settings import CentralSettings
    from msp_sdk.secret import Secret

DATABASE = "central.db"


@functools.cache
def _template() -> Path:
    from central_app.opening import prepare
    from central_app.settings import make_settings

    folder = Path(tempfile.mkdtemp(prefix="msp-central-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    prepare(make_settings({}, database=f"sqlite:///{folder / DATABASE}"))
    return folder


def bootstrapped(folder: Path, **settings: Any) -> tuple[CentralSettings, Secret]:
    """The settings of a Central in this folder, with one partner, and that partner's key."""
    from central_app.opening import bootstrap
    from central_app.settings import make_settings

    if not (folder / DATABASE).exists():
        # With the vault's key beside it.
        for file in _template().glob(f"{DATABASE}*"):
            shutil.copy(file, folder)
    made = make_settings({}, database=f"sqlite:///{folder / DATABASE}", port=0, **settings)
    return made, bootstrap(made, "Contoso IT", "admin@contoso.example")
