"""The parts of a virtual Windows machine, each usable alone; :mod:`msp_sdk.testing.windows_host` puts them together.

What they model is what the project's scripts meet on a host: files that somebody holds open, services that do not
start, a full disk, an antivirus that takes its time, a reboot that is owed. It is our reading of Windows, and no
Windows was at hand to compare it with.

Nothing here sleeps and nothing is drawn at random: time is a :class:`~msp_sdk.testing.machine.clock.Clock` that tests
move, and identifiers are computed from a seed.
"""
