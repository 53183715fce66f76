"""What a user of the library writes; type-checked by ``nox -s types`` and never run.

Each line here is a promise about the types of the public face.
"""

from __future__ import annotations

from typing import assert_type

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
