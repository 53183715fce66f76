"""How a box becomes an appliance: from a code in the environment, typed on a terminal, or claimed beside us."""

from __future__ import annotations

import asyncio
import logging
import sys

from msp_sdk.errors import CentralError, ConfigError, MspError
from msp_sdk.models.provision import Enrolment, parse_code
from msp_sdk.provisioning import ProvisioningClient, load_config, save_config
from msp_sdk.secret import Secret
from msp_sdk.security.device_keys import DevicePrivateKeys
from msp_sdk.wire.http import HttpOptions
from runners.appliance.backoff import Backoff
from runners.appliance.settings import ApplianceSettings

logger = logging.getLogger(__name__)
_LOOK_AGAIN_S = 2.0


async def claim(settings: ApplianceSettings, code: Secret) -> Enrolment:
    """Claim ``code`` once and write the config. Repeating it is safe.

    Raises:
        ConfigError: No address of Central is set, or a file cannot be written.
        ClaimRejectedError, TransportError, WireError: As the client says.
    """
    if settings.central is None:
        raise ConfigError("the address of Central is missing.", remedy="Give --central URL or set MSP_CENTRAL.")
    keys = await asyncio.to_thread(DevicePrivateKeys.load_or_make, settings.keys_file)
    client = ProvisioningClient(settings.central, keys=keys, options=HttpOptions(ca_file=settings.ca_file))
    enrolment = await client.claim(parse_code(code.reveal()))
    await asyncio.to_thread(save_config, settings.config, enrolment)
    return enrolment


async def enrolment_of(settings: ApplianceSettings) -> Enrolment:
    """The enrolment: from the config, else by claiming the code we were given, else by waiting for one.

    Raises:
        ConfigError: The config is damaged.
        ClaimRejectedError, WireError: The code we were given is no good.
    """
    try:
        return load_config(settings.config)
    except ConfigError as error:
        if error.code != "not-claimed":
            raise
    if settings.code is not None:
        return await _claim_until_answered(settings, settings.code)
    if sys.stdin is not None and sys.stdin.isatty():
        return await _ask(settings)
    logger.warning(
        "this appliance is not claimed: set MSP_PROVISION_CODE and MSP_CENTRAL, or run: msp appliance claim CODE"
    )
    return await _wait_for_config(settings)


async def _claim_until_answered(settings: ApplianceSettings, code: Secret) -> Enrolment:
    waiting = Backoff(1.0, 60.0)
    while True:
        try:
            return await claim(settings, code)
        except MspError as error:
            # Central is away or busy; what it refuses for good is raised. A repeated claim is the same claim.
            if not error.retryable:
                raise
            waiting.failed()
            wait_s = waiting.wait_s()
            if isinstance(error, CentralError) and error.retry_after_s is not None:
                wait_s = max(wait_s, min(error.retry_after_s, 3600.0))
            logger.warning("%s It is tried again in %.0f s.", error, wait_s)
            await asyncio.sleep(wait_s)


async def _ask(settings: ApplianceSettings) -> Enrolment:
    while True:
        try:
            typed = await asyncio.to_thread(input, "Provision code: ")
        except EOFError:
            raise ConfigError("no provision code was typed.", code="not-claimed") from None
        try:
            return await claim(settings, Secret(typed))
        except ConfigError:
            raise
        except MspError as error:
            sys.stderr.write(f"{error}\n")


async def _wait_for_config(settings: ApplianceSettings) -> Enrolment:
    while True:
        await asyncio.sleep(_LOOK_AGAIN_S)
        try:
            return load_config(settings.config)
        except ConfigError as error:
            if error.code != "not-claimed":
                raise
