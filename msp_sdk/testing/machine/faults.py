"""How Windows says no: numbers of winerror.h, with the meaning that they have there."""

from __future__ import annotations

FILE_NOT_FOUND = 2
PATH_NOT_FOUND = 3
ACCESS_DENIED = 5
SHARING_VIOLATION = 32
DISK_FULL = 112
DIR_NOT_EMPTY = 145
ALREADY_EXISTS = 183
VIRUS_INFECTED = 225
DEPENDENT_SERVICES_RUNNING = 1051
SERVICE_REQUEST_TIMEOUT = 1053
SERVICE_ALREADY_RUNNING = 1056
SERVICE_DISABLED = 1058
SERVICE_DOES_NOT_EXIST = 1060
SERVICE_CANNOT_ACCEPT_CTRL = 1061
SERVICE_NOT_ACTIVE = 1062
PROCESS_ABORTED = 1067
SERVICE_DEPENDENCY_FAIL = 1068
SERVICE_MARKED_FOR_DELETE = 1072
SERVICE_EXISTS = 1073


class WindowsFault(Exception):  # noqa: N818 (it is what Windows says, not an error of ours)
    """A call of a program failed.

    Attributes:
        number: Of winerror.h.
        detail: One sentence.
    """

    def __init__(self, number: int, detail: str) -> None:
        super().__init__(f"{detail} ({number})")
        self.number = number
        self.detail = detail
