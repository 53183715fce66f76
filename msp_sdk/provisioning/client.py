"""Claim a provision code: the one call that makes a box an appliance of a site.

Example:
    >>> keys = DevicePrivateKeys.load_or_make(Path("device.key"))  # doctest: +SKIP
    >>> enrolment = await ProvisioningClient("https://central.example", keys=keys).claim(code)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from msp_sdk.errors import WireError
from msp_sdk.models.appliance import DeviceIdentity, identifying_mac
from msp_sdk.models.provision import ClaimReply, ClaimRequest, Enrolment, parse_code
from msp_sdk.provisioning.identity import read_identity
from msp_sdk.secret import Secret
from msp_sdk.security.device_keys import DevicePrivateKeys
from msp_sdk.security.sealing import api_key_context
from msp_sdk.wire.http import CentralHttp, HttpOptions
from msp_sdk.wire.routes import CLAIM


def _utc_now() -> datetime:
    return datetime.now(UTC)


class ProvisioningClient:
    """Claims provision codes.

    Args:
        central: Central's address; ``http://`` only to loopback.
        keys: The device's keys. Without them a lost reply cannot be claimed again once the key was used, and
            no sealed credential can be received.
        options: Patience of the HTTP client.
        now: The clock.
    """

    def __init__(
        self,
        central: str,
        *,
        keys: DevicePrivateKeys | None = None,
        options: HttpOptions | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._http = CentralHttp(central, options=options)
        self._keys = keys
        self._now = now

    async def claim(self, code: str | Secret, identity: DeviceIdentity | None = None) -> Enrolment:
        """Claim ``code``. It is safe to repeat: the same device gets the same place and a working key.

        Args:
            code: As a person types it.
            identity: Who we are; read from the kernel when absent.

        Raises:
            WireError: The code is malformed, or the reply does not fit. Nothing was sent in the first case.
            ClaimRejectedError: Unknown, expired, revoked or claimed by another; the code says which.
            TransportError: No answer; the claim may have happened, and repeating it is safe.
        """
        canonical = parse_code(code.reveal() if isinstance(code, Secret) else code)
        who = identity or read_identity()
        public = self._keys.public if self._keys else None
        mac = identifying_mac(who.mac_addresses, public.signing if public else None)
        request = ClaimRequest(
            provision_code=canonical,
            mac_address=mac,
            hostname=who.hostname,
            all_mac_addresses=who.mac_addresses,
            hardware_id=who.hardware_id,
            device_keys=public,
            proof=self._keys.prove(canonical, mac) if self._keys else None,
        )
        async with self._http:
            reply = await self._http.call(CLAIM, ClaimReply, body=request)
        return Enrolment(
            site_id=reply.site_id,
            appliance_id=reply.appliance_id,
            api_key=self._open_key(reply),
            api_endpoint=reply.api_endpoint,
            checkin_interval_seconds=reply.checkin_interval_seconds,
            partner=reply.partner,
            provisioned_at=self._now(),
            mac_address=mac,
            hostname=who.hostname,
        )

    def _open_key(self, reply: ClaimReply) -> Secret:
        if reply.api_key is not None:
            return reply.api_key
        if reply.sealed_api_key is None or self._keys is None:
            raise WireError("Central answered the claim without a key that we can open.", path="api_key")
        context = api_key_context(reply.partner.id, reply.site_id, reply.appliance_id)
        return self._keys.open(reply.sealed_api_key, context)
