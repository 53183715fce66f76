"""The live view of a site on a terminal: the phases as a ladder, the figures, the hosts. Plain lines in a pipe."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from msp_sdk.models.reason import REASONS
from msp_sdk.models.site import PROGRESS, DeploymentStatus
from runners.cli.common import plain
from runners.cli.hosts import HostLine

_TITLES = {
    "discovering": "finding the domain",
    "awaiting_credentials": "one domain credential",
    "enumerating": "reading the directory",
    "deploying": "deploying the agent",
    "scanning": "scanning",
    "complete": "complete",
}


def summarise(hosts: Sequence[HostLine]) -> list[tuple[str, int]]:
    """How many hosts run the agent, and how many have which reason; the most first."""
    agents = sum(1 for host in hosts if host.state == "agent")
    reasons = Counter(host.reason or "pending" for host in hosts if host.state != "agent")
    return [("agent running", agents), *sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))]


class PlainView:
    """A line for every change; for pipes and logs."""

    def __init__(self, url: str) -> None:
        self._last: object = None
        print(f"dashboard  {url}", flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def say(self, text: str) -> None:
        """One line."""
        print(plain(text), flush=True)

    def show(self, status: DeploymentStatus, _hosts: Sequence[HostLine]) -> None:
        """Print what changed."""
        details = status.details
        state = (
            f"{status.progress:3d} %  {_TITLES.get(status.phase, status.phase)}"
            f"  servers {details.servers_found}  workstations {details.workstations_found}"
            f"  agents {details.agents_deployed}"
        )
        if details.awaiting:
            state += f"  awaiting {', '.join(details.awaiting)}"
        if state != self._last:
            self._last = state
            print(plain(state), flush=True)


class LiveView:
    """A terminal that redraws itself."""

    def __init__(self, url: str, login_code: str) -> None:
        from rich.live import Live

        self._url = url
        self._login_code = login_code
        self._notes: list[str] = []
        self._live = Live(refresh_per_second=8, transient=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """One line above the view."""
        self._live.console.print(plain(text), markup=False, highlight=False)

    def show(self, status: DeploymentStatus, _hosts: Sequence[HostLine]) -> None:
        """Redraw."""
        self._live.update(self._draw(status, _hosts))

    def _draw(self, status: DeploymentStatus, hosts: Sequence[HostLine]) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        ladder = Table.grid(padding=(0, 1))
        for phase, progress in PROGRESS.items():
            reached = status.progress > progress or status.phase == "complete"
            now = phase == status.phase and status.phase != "complete"
            mark, style = ("✔", "green") if reached else ("▶", "bold yellow") if now else ("·", "dim")
            ladder.add_row(Text(mark, style), Text(_TITLES[phase], style))
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("hosts", justify="right")
        table.add_column("state")
        table.add_column("what to do", style="dim")
        for reason, count in summarise(hosts) if hosts else []:
            known = REASONS.get(reason)
            style = "green" if reason == "agent running" else ""
            table.add_row(
                str(count), Text(known.title if known else plain(reason), style), known.remedy if known else ""
            )
        awaiting = [Text(plain(f"awaiting {entry}"), "yellow") for entry in status.details.awaiting]
        domain = plain(status.details.domain_discovered or "…")
        head = Text.assemble((domain, "bold"), f"   {self._url}   one-time code {self._login_code}")
        return Group(head, Text(""), ladder, *awaiting, Text(""), table)


def make_view(url: str, login_code: str) -> PlainView | LiveView:
    """The view that fits where stdout goes."""
    if sys.stdout.isatty():
        return LiveView(url, login_code)
    view = PlainView(url)
    view.say(f"one-time code  {login_code}")
    return view
