"""What a user of the library writes; type-checked by ``nox -s types`` and never run.

Each line here is a promise about the types of the public face.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_type

from msp_sdk import (
    ADEnumerator,
    AgentDeployer,
    ApplianceStatus,
    CheckinClient,
    DevicePrivateKeys,
    DomainDiscoverer,
    Enrolment,
    MergeResult,
    Outcome,
    PartnerClient,
    ProvisioningClient,
    RolloutPlan,
    TargetMerger,
)
from msp_sdk.errors import CentralError, MspError
from msp_sdk.models.checkin import CheckinReply, CheckinRequest
from msp_sdk.models.computer import Computer, Enumeration
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain, DomainDiscovery
from msp_sdk.models.generation import owed
from msp_sdk.models.provision import parse_code
from msp_sdk.models.target import Target
from msp_sdk.secret import Secret
from msp_sdk.wire.converter import dumps, structure
from msp_sdk.wire.http import CentralHttp
from msp_sdk.wire.routes import CHECKIN


def values(discovery: DomainDiscovery, enumeration: Enumeration, target: Target) -> None:
    """Models have exact types."""
    assert_type(discovery.best, Domain | None)
    assert_type(enumeration.servers, tuple[Computer, ...])
    assert_type(target.credential_id, str | None)
    assert_type(owed({"scan": 1}, {}), tuple[str, ...])


def secrets(typed: str) -> None:
    """A secret is no text, and a code is a secret."""
    assert_type(parse_code(typed), Secret)
    assert_type(Secret(typed).reveal(), str)
    wrong: str = Secret(typed)  # type: ignore[assignment]
    Credential.typed("admin", typed)  # type: ignore[arg-type]
    del wrong


def values_are_frozen(computer: Computer) -> None:
    """Nobody changes a model in place."""
    computer.hostname = "other"  # type: ignore[misc]


async def calls(http: CentralHttp, request: CheckinRequest) -> None:
    """The reply has the type that was asked for."""
    try:
        reply = await http.call(CHECKIN, CheckinReply, body=request)
    except CentralError as error:
        assert_type(error.retry_after_s, float | None)
        raise
    except MspError as error:
        assert_type(error.code, str)
        raise
    assert_type(reply, CheckinReply)
    assert_type(structure({}, Computer), Computer)
    assert_type(dumps(reply), bytes)


async def clients(domain: Domain, credential: Credential, deployer: AgentDeployer, keys: DevicePrivateKeys) -> None:
    """Each client gives what the face says, imported from the one address of the library."""
    enrolment = await ProvisioningClient("https://central.example", keys=keys).claim("K7QX-0000-0000-0000")
    assert_type(enrolment, Enrolment)
    async with CheckinClient(enrolment, keys=keys) as checkin:
        assert_type(await checkin.check_in(ApplianceStatus(hostname="box", agent_version="1")), CheckinReply)
    assert_type(await DomainDiscoverer().discover(), DomainDiscovery)
    async with ADEnumerator(domain, credential) as enumerator:
        enumeration = await enumerator.enumerate()
        assert_type(enumeration, Enumeration)
        assert_type(enumeration.workstations, tuple[Computer, ...])
        assert_type(enumeration.domain_controllers, tuple[Computer, ...])
        assert_type(enumeration.others, tuple[Computer, ...])
        stream: AsyncIterator[Computer] = enumerator.stream()
        del stream
    merge = TargetMerger().merge(manual=(), credentials=[credential], enumerated=enumeration)
    assert_type(merge, MergeResult)
    plan = await deployer.plan(merge.targets)
    assert_type(plan, RolloutPlan)
    async for outcome in deployer.apply(plan):
        assert_type(outcome, Outcome)


async def partner(key: Secret) -> None:
    """The key of a partner is a secret, not a text."""
    async with PartnerClient("https://central.example", key) as client:
        assert_type(await client.computers("site"), tuple[Computer, ...])
    PartnerClient("https://central.example", "pk_text")  # type: ignore[arg-type]
