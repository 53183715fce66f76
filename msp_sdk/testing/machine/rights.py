"""Who may do what in a folder: three kinds of people, three rights, inherited until a folder says otherwise.

It is no access control list: no single accounts, no denials, no special rights. The one who made a file may change it.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

Who = Literal["system", "administrator", "user"]

EVERYBODY: frozenset[Who] = frozenset({"system", "administrator", "user"})
OWNERS: frozenset[Who] = frozenset({"system", "administrator"})


@frozen
class Rights:
    """Of a folder and what is in it.

    Attributes:
        read: Who reads files and lists the folder.
        create: Who may put new files and folders there.
        change: Who may write, rename and delete what is there.
    """

    read: frozenset[Who] = EVERYBODY
    create: frozenset[Who] = OWNERS
    change: frozenset[Who] = OWNERS


#: As ``D:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)`` has it.
CLOSED = Rights(read=OWNERS)

#: What a new Windows has, as far as our scripts meet it.
DEFAULTS = {
    "C:": Rights(),
    r"C:\ProgramData": Rights(create=EVERYBODY),
    r"C:\Users\Public": Rights(create=EVERYBODY, change=EVERYBODY),
    r"C:\Windows\Temp": Rights(create=EVERYBODY),
}
