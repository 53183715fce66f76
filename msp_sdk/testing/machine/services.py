r"""Services and the service control manager: states, start and stop that take time, failure actions, late deletion.

Time is the machine's clock: :meth:`Services.start` begins, and the service runs when its time has passed.

Example:
    >>> clock = Clock()
    >>> files = Files(clock=clock)
    >>> files.write(r"C:\agent.exe", b"MZ")
    >>> services = Services(files, clock)
    >>> services.register(Service("Agent", r"C:\agent.exe", start_s=3))
    >>> services.start("Agent")
    >>> services.find("agent").state
    'start pending'
    >>> clock.advance(3)
    >>> services.find("agent").state
    'running'
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

from attrs import field, frozen, mutable

from msp_sdk.testing.machine import faults
from msp_sdk.testing.machine.clock import Clock, Timer
from msp_sdk.testing.machine.faults import WindowsFault
from msp_sdk.testing.machine.files import Files, Node
from msp_sdk.testing.machine.names import key

#: As ``Win32_Service`` has them, in lower case.
ServiceState = Literal["running", "stopped", "start pending", "stop pending"]
ServiceStart = Literal["auto", "manual", "disabled"]

#: The service manager waits so long for a service to say that it starts.
START_LIMIT_S = 30.0


@frozen
class FailureAction:
    """What is done when a service ends without having been stopped."""

    action: Literal["none", "restart", "reboot"]
    delay_s: float = 0.0


@mutable
class Service:
    """A service.

    Attributes:
        binary: Path of its program, without quotes.
        start_failure: Why it stops at once when it is started; None when it runs.
        start_s: How long it takes to run; beyond 30 s the service manager gives up (1053).
        stop_s: How long it takes to stop; ``inf`` for one that hangs.
        linger_s: How long its process still holds its file after it counts as stopped.
        dependencies: Names of services that run before it does.
        failure_actions: For the first failure, the second and so on; the last one for all further ones.
        reset_s: After so long without a failure the count begins anew.
        failure_count: Failures since then.
        exit_code: Of its last end.
        marked_for_deletion: It goes when it has stopped and nobody holds it any more.
        handle_count: How many programs, such as an open console, hold it.
        failure: Why it ended by itself the last time, in words.
        image: The file that its process runs from; kept by the service manager, as is the rest.
        timer: What it waits for.
        running_since_s: By the machine's clock.
        gone_at_s: When its last process let go of its file.
    """

    name: str
    binary: str
    display_name: str = ""
    start: ServiceStart = "auto"
    state: ServiceState = "stopped"
    start_failure: str | None = None
    account: str = "LocalSystem"
    start_s: float = 0.0
    stop_s: float = 0.0
    linger_s: float = 0.0
    dependencies: tuple[str, ...] = ()
    failure_actions: tuple[FailureAction, ...] = ()
    reset_s: float = 86400.0
    failure_count: int = 0
    exit_code: int = 0
    marked_for_deletion: bool = False
    handle_count: int = 0
    failure: str = ""
    image: Node | None = field(default=None, eq=False, repr=False)
    timer: Timer | None = field(default=None, eq=False, repr=False)
    running_since_s: float = field(default=0.0, eq=False, repr=False)
    gone_at_s: float = field(default=0.0, eq=False, repr=False)


class Services:
    """The services of a machine, by name without case.

    Attributes:
        judge: Says of a service and its program why it stops at once; None when it runs.
        reboot: What the failure action ``reboot`` does.
    """

    def __init__(self, files: Files, clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._entries: dict[str, Service] = {}
        self.judge: Callable[[Service, bytes], str | None] = lambda service, _: service.start_failure
        self.reboot: Callable[[], None] = lambda: None

    # What whoever arranges a test does, and looking.

    def find(self, name: str) -> Service | None:
        """The service, or None."""
        return self._entries.get(name.casefold())

    def create(self, service: Service) -> None:
        """Add or replace a service."""
        self._entries[service.name.casefold()] = service

    def all(self) -> tuple[Service, ...]:
        """All services, by name."""
        return tuple(service for _, service in sorted(self._entries.items()))

    def runs_from(self, node: Node) -> bool:
        """True while a service has this file as its program."""
        now_s = self._clock.elapsed_s
        return any(
            (service.state != "stopped" or now_s < service.gone_at_s) and self._is_image(service, node)
            for service in self._entries.values()
        )

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Hold a service open, as a console does that shows it: it is not deleted meanwhile."""
        service = self._get(name)
        service.handle_count += 1
        try:
            yield
        finally:
            service.handle_count -= 1
            self._sweep(service)

    # What programs ask of the service manager.

    def register(self, service: Service) -> None:
        """Add a service (``CreateService``).

        Raises:
            WindowsFault: There is one of that name (1073), or one that still waits to be deleted (1072).
        """
        before = self.find(service.name)
        if before is not None:
            number = faults.SERVICE_MARKED_FOR_DELETE if before.marked_for_deletion else faults.SERVICE_EXISTS
            raise WindowsFault(number, f"there is a service {before.name} already.")
        self.create(service)

    def delete(self, name: str) -> bool:
        """Delete a service, or mark it: it goes when it has stopped and nobody holds it. False when it is not there.

        Raises:
            WindowsFault: It is marked already (1072).
        """
        service = self.find(name)
        if service is None:
            return False
        if service.marked_for_deletion:
            raise WindowsFault(faults.SERVICE_MARKED_FOR_DELETE, f"the service {name} is marked for deletion.")
        service.marked_for_deletion = True
        self._sweep(service)
        return True

    def start(self, name: str) -> None:
        """Begin to start a service, and what it depends on.

        Raises:
            WindowsFault: It is not there (1060), runs or starts already (1056), is disabled (1058), is marked for
                deletion (1072), its program is not there (2), or what it depends on did not start (1068).
        """
        service = self._get(name)
        if service.marked_for_deletion:
            raise WindowsFault(faults.SERVICE_MARKED_FOR_DELETE, f"the service {name} is marked for deletion.")
        if service.state != "stopped":
            raise WindowsFault(faults.SERVICE_ALREADY_RUNNING, f"the service {name} is {service.state}.")
        if service.start == "disabled":
            raise WindowsFault(faults.SERVICE_DISABLED, "the service is disabled.")
        node = self._files.node(service.binary)
        if node is None:
            raise WindowsFault(faults.FILE_NOT_FOUND, f"the file of the service {name} is not there.")
        service.state = "start pending"  # before the others: a circle of dependencies ends here
        try:
            for other in service.dependencies:
                self._start_dependency(service, other)
        except WindowsFault:
            service.state = "stopped"
            raise
        service.image = node
        failure = self.judge(service, node.content)
        if service.start_s > START_LIMIT_S:
            late = f"the service {name} did not say in time that it runs."
            self._later(service, START_LIMIT_S, lambda: self._ended(service, faults.SERVICE_REQUEST_TIMEOUT, late))
        elif failure is not None:
            self._later(service, service.start_s, lambda: self._ended(service, faults.PROCESS_ABORTED, failure))
        else:
            self._later(service, service.start_s, lambda: self._runs(service))

    def start_and_wait(self, name: str) -> None:
        """Start a service and let time pass until it runs.

        Raises:
            WindowsFault: As :meth:`start`; it ended at once (1067), or did not run in time (1053).
        """
        self.start(name)
        self.wait_until_running(name)

    def wait_until_running(self, name: str) -> None:
        """Let time pass until a service runs that was told to start.

        Raises:
            WindowsFault: It is not there (1060), ended at once (1067), or did not run in time (1053).
        """
        service = self._get(name)
        self._clock.wait(lambda: service.state != "start pending", timeout_s=START_LIMIT_S)
        if service.state != "running":
            raise WindowsFault(service.exit_code, service.failure)

    def stop(self, name: str, *, force: bool = True) -> None:
        """Begin to stop a service; with ``force``, those that depend on it first.

        Raises:
            WindowsFault: It is not there (1060), does not run (1062), is on its way (1061), or others that run depend
                on it (1051).
        """
        service = self._get(name)
        if service.state == "stopped":
            raise WindowsFault(faults.SERVICE_NOT_ACTIVE, f"the service {name} does not run.")
        if service.state != "running":
            raise WindowsFault(faults.SERVICE_CANNOT_ACCEPT_CTRL, f"the service {name} is {service.state}.")
        for other in self.all():
            if other.state == "running" and name.casefold() in {entry.casefold() for entry in other.dependencies}:
                if not force:
                    raise WindowsFault(faults.DEPENDENT_SERVICES_RUNNING, f"{other.name} depends on {name}.")
                self.stop(other.name)
        service.state = "stop pending"
        self._later(service, service.stop_s, lambda: self._stopped(service, 0))

    def stop_and_wait(self, name: str, *, timeout_s: float = START_LIMIT_S) -> bool:
        """Stop a service and let time pass; False when it still runs then. One that is stopped, or none, is fine."""
        service = self.find(name)
        if service is None or service.state == "stopped":
            return True
        if service.state == "start pending":
            self._clock.wait(lambda: service.state != "start pending", timeout_s=timeout_s)
        if service.state == "running":
            self.stop(name)
        return self._clock.wait(lambda: service.state == "stopped", timeout_s=timeout_s)

    def crash(self, name: str, exit_code: int = faults.PROCESS_ABORTED) -> None:
        """End a service's process without a word; its failure actions follow.

        Raises:
            WindowsFault: It is not there (1060).
        """
        service = self._get(name)
        if service.state != "stopped":
            self._ended(service, exit_code, f"the service {name} ended with code {exit_code}.")

    def end_processes_of(self, node: Node) -> None:
        """End each service whose program is this file; none of them is started again."""
        for service in self.all():
            if service.state != "stopped" and self._is_image(service, node):
                self._stopped(service, faults.PROCESS_ABORTED)

    def power_off(self) -> None:
        """Every process is gone, and what waits is forgotten."""
        for service in self.all():
            self._stopped(service, service.exit_code)
            service.image, service.gone_at_s, service.handle_count = None, 0.0, 0
            self._sweep(service)

    def boot(self) -> None:
        """Start what starts by itself; one that does not start stays stopped."""
        for service in self.all():
            service.failure_count = 0
            if service.start == "auto" and service.state == "stopped":
                with contextlib.suppress(WindowsFault):
                    self.start_and_wait(service.name)

    def _get(self, name: str) -> Service:
        service = self.find(name)
        if service is None:
            raise WindowsFault(faults.SERVICE_DOES_NOT_EXIST, f"there is no service {name}.")
        return service

    def _start_dependency(self, service: Service, name: str) -> None:
        other = self.find(name)
        if other is not None and other.state == "running":
            return
        try:
            self.start_and_wait(name)
        except WindowsFault as fault:
            detail = f"{service.name} depends on {name}: {fault.detail}"
            raise WindowsFault(faults.SERVICE_DEPENDENCY_FAIL, detail) from fault

    def _is_image(self, service: Service, node: Node) -> bool:
        image = service.image
        # A service that a test made running has no process of which the file would be known.
        return image is node if image is not None else key(service.binary) == key(node.path)

    def _later(self, service: Service, delay_s: float, work: Callable[[], None]) -> None:
        self._forget_timer(service)
        if delay_s <= 0:
            work()
        elif delay_s != float("inf"):
            service.timer = self._clock.call_later(delay_s, work)

    def _forget_timer(self, service: Service) -> None:
        if service.timer is not None:
            service.timer.cancelled = True
            service.timer = None

    def _runs(self, service: Service) -> None:
        service.timer = None
        service.state, service.exit_code = "running", 0
        service.running_since_s = self._clock.elapsed_s

    def _stopped(self, service: Service, exit_code: int) -> None:
        self._forget_timer(service)
        service.state, service.exit_code = "stopped", exit_code
        if service.linger_s and not exit_code:
            service.gone_at_s = self._clock.elapsed_s + service.linger_s
        else:
            service.image = None
        self._sweep(service)

    def _ended(self, service: Service, exit_code: int, failure: str) -> None:
        """It ended by itself: what its failure actions say is done."""
        service.failure = failure
        was_running = service.state == "running"
        lasted_s = self._clock.elapsed_s - service.running_since_s
        self._stopped(service, exit_code)
        if not was_running:
            return  # failure actions are for a service that has run
        service.failure_count = 1 if lasted_s >= service.reset_s else service.failure_count + 1
        if not service.failure_actions:
            return
        last = len(service.failure_actions) - 1
        chosen = service.failure_actions[min(service.failure_count - 1, last)]
        if chosen.action == "restart":
            self._later(service, chosen.delay_s, lambda: self._restart(service))
        elif chosen.action == "reboot":
            self._later(service, chosen.delay_s, self.reboot)

    def _restart(self, service: Service) -> None:
        if service.state == "stopped" and self.find(service.name) is service:
            with contextlib.suppress(WindowsFault):
                self.start(service.name)

    def _sweep(self, service: Service) -> None:
        if service.marked_for_deletion and service.state == "stopped" and not service.handle_count:
            self._forget_timer(service)
            if self._entries.get(service.name.casefold()) is service:
                del self._entries[service.name.casefold()]
