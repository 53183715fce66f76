"""HTTP of the check-in."""

from __future__ import annotations

from attrs import evolve
from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from central_app.auth import APPLIANCE_PREFIX, address_of, bearer, parse_token, register
from central_app.bodies import CHECKIN_BYTES, check_text, json_reply, read_json
from central_app.checkin.service import CheckInService
from central_app.problems import ProblemError, invalid
from central_app.state import central_of
from msp_sdk.errors import WireError
from msp_sdk.models.appliance import canonical_mac
from msp_sdk.models.checkin import CheckinRequest
from msp_sdk.wire.converter import structure, unknown_fields
from msp_sdk.wire.routes import CHECKIN

LONGEST_NAME = 255
LONGEST_VERSION = 80
MOST_ADDRESSES = 512


def check_request(request: CheckinRequest) -> None:
    """Check what the model cannot say.

    Raises:
        ProblemError: ``invalid``, with the path.
    """
    check_text("hostname", request.hostname, LONGEST_NAME, shortest=0)
    check_text("agent_version", request.agent_version, LONGEST_VERSION, shortest=0)
    check_text("nixos_version", request.nixos_version, LONGEST_VERSION, shortest=0)
    for name in ("ip_addresses", "all_mac_addresses", "subnets"):
        if len(getattr(request, name) or ()) > MOST_ADDRESSES:
            raise invalid(name, f"holds at most {MOST_ADDRESSES}")


def read_macs(request: CheckinRequest) -> CheckinRequest:
    """The request with its MACs in the one spelling.

    Raises:
        ProblemError: ``invalid``, with the path.
    """

    def read(path: str, text: str) -> str:
        try:
            return canonical_mac(text)
        except WireError:
            raise invalid(path, "is no MAC address") from None

    macs = request.all_mac_addresses
    return evolve(
        request,
        mac_address=read("mac_address", request.mac_address),
        all_mac_addresses=None
        if macs is None
        else tuple(read(f"all_mac_addresses[{number}]", mac) for number, mac in enumerate(macs)),
    )


async def check_in(request: Request) -> HTTPResponse:
    """``POST /api/appliances/checkin``: its key is proven in the heartbeat's own transaction."""
    token = parse_token(central_of(request), bearer(request) or "", APPLIANCE_PREFIX)
    if token is None:
        raise ProblemError("unauthenticated")
    data = read_json(request, CHECKIN_BYTES)
    body = structure(data, CheckinRequest)
    check_request(body)
    body = read_macs(body)
    service: CheckInService = request.app.ctx.checkin
    unknown_count = len(unknown_fields(data, CheckinRequest))
    return json_reply(await service.check_in(token, body, unknown_count, address_of(request)))


def blueprint() -> Blueprint:
    """The route."""
    made = Blueprint("checkin")
    register(made, CHECKIN, check_in)
    return made
