"""The Windows Firewall: profiles that are on or off, and rules that let a port in. It drops what it does not let in.

Example:
    >>> firewall = Firewall()
    >>> firewall.allows(5985), firewall.allows(445)
    (True, False)
    >>> firewall["Domain"] = False
    >>> firewall.allows(445)
    True
"""

from __future__ import annotations

import ipaddress
from typing import Literal

from attrs import frozen

Profile = Literal["Domain", "Private", "Public"]


@frozen
class FirewallRule:
    """Lets a port in.

    Attributes:
        name: Of the rule.
        port: TCP.
        profiles: In which it holds.
        remote: Networks from which; empty for any.
        is_on: Off, it does nothing.
        blocks: It keeps out instead; such a rule comes before all others.
    """

    name: str
    port: int
    profiles: frozenset[Profile] = frozenset({"Domain", "Private", "Public"})
    remote: tuple[str, ...] = ()
    is_on: bool = True
    blocks: bool = False

    def fits(self, port: int, remote: str, profile: Profile) -> bool:
        """True when the rule has a say in such a connection."""
        if not self.is_on or port != self.port or profile not in self.profiles:
            return False
        address = ipaddress.ip_address(remote)
        return not self.remote or any(address in ipaddress.ip_network(network) for network in self.remote)


class Firewall(dict[str, bool]):
    """Profile to on or off, in the order in which Windows lists them.

    Attributes:
        current: The profile of the network that the machine is in now.
        rules: Of all profiles. At first WinRM's two doors and the RPC endpoint mapper are open.
    """

    def __init__(self) -> None:
        super().__init__(Domain=True, Private=True, Public=True)
        self.current: Profile = "Domain"
        self.rules = [FirewallRule(f"TCP {port}", port) for port in (5985, 5986, 135)]

    def allows(self, port: int, *, remote: str = "127.0.0.1") -> bool:
        """True when a connection comes through; else it is dropped without an answer, and so is a ping."""
        if not self[self.current]:
            return True
        fitting = [rule for rule in self.rules if rule.fits(port, remote, self.current)]
        return bool(fitting) and not any(rule.blocks for rule in fitting)
