"""A real Central on a real port, in a thread of its own, and the two who talk to it: a partner and devices."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from msp_sdk.models.appliance import identifying_mac
from msp_sdk.models.provision import parse_code
from msp_sdk.security.device_keys import DevicePrivateKeys
from msp_sdk.wire.converter import encode_bytes
from tests.prepared_central import DATABASE, bootstrapped

# Central is spoken to in clear here; made for each client, the system's trust would be most of what the tests do.
NO_TRUST = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class CentralUnderTest:
    """Central with one partner. ``http`` is the partner's client; ``call`` is anybody's."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.database = folder / DATABASE
        self.settings, key = bootstrapped(folder, **settings)
        self.api_key = key.reveal()
        self.url = ""
        self.central: Any = None
        self._ended: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._error: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._started.wait(20)
        if self._error is not None:
            raise self._error
        self.http = self.client(self.api_key)

    async def _run(self) -> None:
        from central_app.app import running

        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with running(self.settings) as central:
                self.url, self.central = f"http://127.0.0.1:{central.port}", central.app.ctx.central
                self._started.set()
                await self._ended.wait()
        except BaseException as error:
            self._error = error
            self._started.set()
            raise

    def close(self) -> None:
        self.http.close()
        assert self._loop is not None
        assert self._ended is not None
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False, verify=NO_TRUST)

    def call(self, method: str, path: str, key: str | None = None, **arguments: Any) -> httpx.Response:
        with self.client(key) as client:
            return client.request(method, path, **arguments)

    def pass_time(self, **parts: float) -> None:
        """Central's clock goes on by that much."""
        before = self.central.now
        self.central.now = lambda: before() + timedelta(**parts)

    def new_partner_key(self, name: str) -> str:
        """Another partner, made beside the running Central."""
        from central_app.opening import bootstrap

        return bootstrap(self.settings, name, f"admin@{name}.example").reveal()

    def provision(self, **wish: Any) -> dict[str, Any]:
        response = self.http.post("/api/partners/me/provisions", json={"client_name": "Clinic", **wish})
        assert response.status_code == 201, response.text
        return response.json()

    def join(self, device: Device | None = None, **wish: Any) -> Joined:
        """A device that claimed a fresh code and has its key."""
        made = device or Device()
        reply = made.claim(self, self.provision(**wish)["provision_code"])
        assert reply.status_code == 200, reply.text
        return Joined(self, made, reply.json())


class Device:
    """A box before it is claimed."""

    def __init__(self, *, keyless: bool = False, mac: str | None = None) -> None:
        self.mac = mac or "00:15:5D:" + ":".join(f"{byte:02X}" for byte in secrets.token_bytes(3))
        self.keys = None if keyless else DevicePrivateKeys.generate()

    def body(self, code: str, **changes: Any) -> dict[str, Any]:
        body: dict[str, Any] = {
            "provision_code": code,
            "mac_address": self.mac,
            "hostname": "nixos",
            "all_mac_addresses": [self.mac],
        }
        if self.keys is not None:
            mac = identifying_mac([self.mac])
            body["device_keys"] = {
                "signing": encode_bytes(self.keys.public.signing),
                "sealing": encode_bytes(self.keys.public.sealing),
            }
            body["proof"] = encode_bytes(self.keys.prove(parse_code(code), mac))
        return body | changes

    def claim(self, central: CentralUnderTest, code: str, **changes: Any) -> httpx.Response:
        return central.call("POST", "/api/partners/claim", json=self.body(code, **changes))


class Joined:
    """An appliance: a device with its place and key."""

    def __init__(self, central: CentralUnderTest, device: Device, enrolment: dict[str, Any]) -> None:
        self.central = central
        self.device = device
        self.enrolment = enrolment
        self.site_id: str = enrolment["site_id"]
        self.id: str = enrolment["appliance_id"]
        self.key: str = enrolment["api_key"]

    def status(self, **changes: Any) -> dict[str, Any]:
        return {
            "site_id": self.site_id,
            "hostname": "nixos",
            "mac_address": self.device.mac,
            "ip_addresses": ["10.0.0.2"],
            "uptime_seconds": 12.5,
            "agent_version": "0.1.0",
            "nixos_version": "24.11",
        } | changes

    def post(self, key: str | None = None, **changes: Any) -> httpx.Response:
        return self.central.call("POST", "/api/appliances/checkin", key or self.key, json=self.status(**changes))

    def check_in(self, **changes: Any) -> dict[str, Any]:
        response = self.post(**changes)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
def make_central(tmp_path: Path) -> Iterator[Callable[..., CentralUnderTest]]:
    made: list[CentralUnderTest] = []

    def make(**settings: Any) -> CentralUnderTest:
        folder = tmp_path / f"central-{len(made)}"
        folder.mkdir()
        made.append(CentralUnderTest(folder, **settings))
        return made[-1]

    yield make
    for central in made:
        central.close()


@pytest.fixture
def central(make_central: Callable[..., CentralUnderTest]) -> CentralUnderTest:
    return make_central()


@pytest.fixture
def make_device() -> type[Device]:
    return Device


@pytest.fixture(scope="module")
def central_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CentralUnderTest]:
    """One Central for a whole file, for tests that only ask."""
    central = CentralUnderTest(tmp_path_factory.mktemp("central"))
    yield central
    central.close()


@pytest.fixture(scope="module")
def central_unlimited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CentralUnderTest]:
    """One Central for a whole file, for tests that ask very often."""
    budgets = ("claims_per_minute_address", "claims_per_minute_code", "reports_per_minute_appliance")
    central = CentralUnderTest(tmp_path_factory.mktemp("central"), **dict.fromkeys(budgets, 10**9))
    yield central
    central.close()


@pytest.fixture
def site(central: CentralUnderTest) -> Iterator[SimpleNamespace]:
    """A site with one appliance, and the two who talk to Central about it."""
    joined = central.join()
    with central.client(joined.key) as appliance:
        yield SimpleNamespace(
            central=central, joined=joined, partner=central.http, appliance=appliance, site_id=joined.site_id
        )
