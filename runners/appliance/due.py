"""When a host of a rollout is due (again). No I/O."""

from __future__ import annotations

import hashlib
from datetime import datetime

from msp_sdk.models.checkin import SitePolicy
from msp_sdk.models.rollout import Outcome
from msp_sdk.models.target import Target
from msp_sdk.network.host_pins import HostPin, pin_of
from runners.appliance.state import HostRecord

# A host that was off or busy is looked for again after this long.
WAITING_AGAIN_S = 300.0
# What holds a host up here is on our side, and passes sooner.
OUR_TURN_AGAIN_S = 20.0
_OUR_TURN = frozenset({"credential-unproven", "logons-in-flight", "credential-paused", "waiting-for-lease"})
# These say that a rollout left the host out; a host that it covers now has another answer.
_OUT_OF_SCOPE = frozenset({"excluded", "domain-controller", "role-not-in-scope"})


def circumstances(target: Target, ledger_key: str | None, policy: SitePolicy, pins: tuple[HostPin, ...] = ()) -> str:
    """A digest of what decides over a host beside the host itself: the credential, the way there, what is allowed.

    A host that was refused for one of these is due again when one has changed, and never before.
    """
    pin = pin_of(pins, (target.fqdn or "", target.hostname))
    facts: tuple[object, ...] = (
        ledger_key,
        target.fqdn,
        target.ip_addresses,
        target.port,
        target.use_ssl,
        policy.allow_ntlm,
        policy.allow_domain_admin_on_hosts,
        policy.trusted_cas,
        *((pin,) if pin else ()),
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def is_due(record: HostRecord | None, now_circumstances: str, now: datetime) -> bool:
    """True when a host that the rollout covers is to be worked on."""
    if record is None:
        return True
    if record.outcome.state == "done":
        return False
    code = record.outcome.error.code if record.outcome.error else None
    if code in _OUT_OF_SCOPE or record.circumstances != now_circumstances:
        return True
    return seconds_until_due(record, now) <= 0


def seconds_until_due(record: HostRecord, now: datetime) -> float:
    """How long a host waits for its next try; infinite when time alone brings none. A clock set back makes it due."""
    if record.outcome.state != "waiting":
        return float("inf")
    code = record.outcome.error.code if record.outcome.error else None
    wait_s = OUR_TURN_AGAIN_S if code in _OUR_TURN else WAITING_AGAIN_S
    gone_s = (now - record.at).total_seconds()
    return wait_s - gone_s if gone_s >= 0 else 0.0


def is_same_outcome(before: Outcome, now: Outcome) -> bool:
    """True when a host still waits for the same reason: that is no news."""
    code = before.error.code if before.error else None
    return before.state == now.state == "waiting" and code == (now.error.code if now.error else None)
