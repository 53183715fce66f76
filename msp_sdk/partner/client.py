"""The partner's side of the wire: sites, codes, credentials, packages, rollouts.

Example:
    >>> async with PartnerClient("https://central.example", Secret("pk_…")) as partner:  # doctest: +SKIP
    ...     site = await partner.create_site(NewSite(name="Clinic"))
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self, TypeVar

from msp_sdk.models.appliance import Appliance
from msp_sdk.models.compliance import CheckResult
from msp_sdk.models.computer import Computer
from msp_sdk.models.credential import NewCredential, NewDomainCredential, StoredCredential
from msp_sdk.models.domain import DiscoveryReport
from msp_sdk.models.event import AuditEntry, Event
from msp_sdk.models.package import AgentPackage
from msp_sdk.models.page import Page
from msp_sdk.models.partner import LoginCode
from msp_sdk.models.provision import Provision, ProvisionRequest
from msp_sdk.models.rollout import NewRollout, Outcome, Rollout
from msp_sdk.models.site import DeploymentStatus, NewSite, Site
from msp_sdk.models.target import ManualTarget, TargetsReport
from msp_sdk.secret import Secret
from msp_sdk.wire import routes
from msp_sdk.wire.converter import loads, structure
from msp_sdk.wire.http import CentralHttp, HttpOptions
from msp_sdk.wire.routes import Route

T = TypeVar("T")


class PartnerClient:
    """Everything a partner can ask of Central.

    Every method raises :class:`~msp_sdk.errors.CentralError` when Central says no,
    :class:`~msp_sdk.errors.TransportError` when there is no answer, and :class:`~msp_sdk.errors.WireError` when the
    answer does not fit. Lists are read whole, in Central's order; an empty one means that there is nothing.

    Args:
        central: Central's address.
        key: The partner's API key.
        options: Patience of the HTTP client.
    """

    def __init__(self, central: str, key: Secret, *, options: HttpOptions | None = None) -> None:
        self._http = CentralHttp(central, key=lambda: key, options=options)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    @property
    def central(self) -> str:
        """Central's address, without a trailing slash."""
        return self._http.base_url

    # Sites.

    async def create_site(self, site: NewSite) -> Site:
        """Make a site."""
        return await self._http.call(routes.SITE_CREATE, Site, body=site)

    async def sites(self) -> tuple[Site, ...]:
        """All sites."""
        return await self._all(routes.SITE_LIST, Site)

    async def site(self, site_id: str) -> Site:
        """One site."""
        return await self._http.call(routes.SITE_GET, Site, names={"site_id": site_id})

    async def change_site(self, site_id: str, **changes: object) -> Site:
        """Change some of a site's settings, such as ``auto_rollout=AutoRollout(…)`` or ``allow_ntlm=True``."""
        return await self._http.call(routes.SITE_CHANGE, Site, names={"site_id": site_id}, body=changes)

    async def status(self, site_id: str) -> DeploymentStatus:
        """How far the site has come."""
        return await self._http.call(routes.SITE_STATUS, DeploymentStatus, names={"site_id": site_id})

    async def domains(self, site_id: str) -> tuple[DiscoveryReport, ...]:
        """The last discovery report of each appliance, certificates included."""
        return await self._all(routes.SITE_DOMAINS, DiscoveryReport, site_id=site_id)

    async def computers(self, site_id: str) -> tuple[Computer, ...]:
        """Every computer of the site's directory."""
        return await self._all(routes.SITE_COMPUTERS, Computer, site_id=site_id)

    async def targets(self, site_id: str) -> tuple[TargetsReport, ...]:
        """The merged list of each appliance."""
        return await self._all(routes.SITE_TARGETS, TargetsReport, site_id=site_id)

    async def deployments(self, site_id: str) -> tuple[Outcome, ...]:
        """The last outcome of each host."""
        return await self._all(routes.SITE_DEPLOYMENTS, Outcome, site_id=site_id)

    async def scan_results(self, site_id: str) -> tuple[CheckResult, ...]:
        """The last result of each check on each host."""
        return await self._all(routes.SITE_SCAN_RESULTS, CheckResult, site_id=site_id)

    async def wish_enumeration(self, site_id: str) -> None:
        """Ask every appliance of the site to enumerate."""
        await self._http.call(routes.ENUMERATION_WISH, dict, names={"site_id": site_id})

    async def wish_scan(self, site_id: str) -> None:
        """Ask every appliance of the site to scan."""
        await self._http.call(routes.SCAN_WISH, dict, names={"site_id": site_id})

    async def events(self, site_id: str, *, last_event_id: int | None = None) -> AsyncIterator[Event]:
        """The site's events as they come; ends when Central ends the stream. Resume with ``last_event_id``."""
        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = str(last_event_id)
        async with self._http.stream(routes.SITE_EVENTS, names={"site_id": site_id}, headers=headers) as response:
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    yield structure(loads(line[5:]), Event)

    # Appliances and provision codes.

    async def create_provision(self, request: ProvisionRequest) -> Provision:
        """Make a provision code; it is shown in this reply and while it is pending."""
        return await self._http.call(routes.PROVISION_CREATE, Provision, body=request)

    async def provisions(self) -> tuple[Provision, ...]:
        """All provision codes."""
        return await self._all(routes.PROVISION_LIST, Provision)

    async def revoke_provision(self, provision_id: str) -> None:
        """Revoke a pending code."""
        await self._http.call(routes.PROVISION_REVOKE, type(None), names={"provision_id": provision_id})

    async def appliances(self, site_id: str) -> tuple[Appliance, ...]:
        """The appliances of a site."""
        return await self._all(routes.APPLIANCE_LIST, Appliance, site_id=site_id)

    async def approve(self, site_id: str, appliance_id: str) -> Appliance:
        """Let an appliance in that waits for approval."""
        return await self._on_appliance(routes.APPLIANCE_APPROVE, site_id, appliance_id)

    async def revoke(self, site_id: str, appliance_id: str) -> Appliance:
        """End an appliance's keys now."""
        return await self._on_appliance(routes.APPLIANCE_REVOKE, site_id, appliance_id)

    async def replace(self, site_id: str, appliance_id: str) -> Appliance:
        """Let new hardware take an appliance's place."""
        return await self._on_appliance(routes.APPLIANCE_REPLACE, site_id, appliance_id)

    async def _on_appliance(self, route: Route, site_id: str, appliance_id: str) -> Appliance:
        return await self._http.call(route, Appliance, names={"site_id": site_id, "appliance_id": appliance_id})

    # Credentials and manual targets.

    async def create_domain_credential(self, site_id: str, credential: NewDomainCredential) -> StoredCredential:
        """Store a credential for a domain; wishes an enumeration and a scan."""
        return await self._http.call(
            routes.DOMAIN_CREDENTIAL_CREATE, StoredCredential, names={"site_id": site_id}, body=credential
        )

    async def create_credential(self, site_id: str, credential: NewCredential) -> StoredCredential:
        """Store a credential of any type."""
        return await self._http.call(
            routes.CREDENTIAL_CREATE, StoredCredential, names={"site_id": site_id}, body=credential
        )

    async def credentials(self, site_id: str) -> tuple[StoredCredential, ...]:
        """All credentials of a site, without their secrets, with what the appliances found out about them."""
        return await self._all(routes.CREDENTIAL_LIST, StoredCredential, site_id=site_id)

    async def rotate_credential(self, site_id: str, credential_id: str, new: NewCredential) -> StoredCredential:
        """Replace a credential without a gap; its version rises."""
        names = {"site_id": site_id, "credential_id": credential_id}
        return await self._http.call(routes.CREDENTIAL_ROTATE, StoredCredential, names=names, body=new)

    async def retry_credential(self, site_id: str, credential_id: str) -> StoredCredential:
        """Allow exactly one more attempt with a refused credential."""
        names = {"site_id": site_id, "credential_id": credential_id}
        return await self._http.call(routes.CREDENTIAL_RETRY, StoredCredential, names=names)

    async def delete_credential(self, site_id: str, credential_id: str) -> None:
        """Destroy a credential; the appliances forget it at their next check-in."""
        names = {"site_id": site_id, "credential_id": credential_id}
        await self._http.call(routes.CREDENTIAL_DELETE, type(None), names=names)

    async def manual_targets(self, site_id: str) -> tuple[ManualTarget, ...]:
        """The targets that people set."""
        return await self._all(routes.MANUAL_TARGETS_GET, ManualTarget, site_id=site_id)

    async def set_manual_targets(self, site_id: str, targets: tuple[ManualTarget, ...]) -> tuple[ManualTarget, ...]:
        """Replace the manual targets; an empty tuple removes all."""
        page = await self._http.call(
            routes.MANUAL_TARGETS_PUT, Page[ManualTarget], names={"site_id": site_id}, body=targets
        )
        return page.items

    # Packages and rollouts.

    async def create_package(self, package: AgentPackage) -> AgentPackage:
        """Announce a package; upload its file next."""
        return await self._http.call(routes.PACKAGE_CREATE, AgentPackage, body=package)

    async def upload_package(self, sha256: str, content: bytes) -> AgentPackage:
        """Upload a package's file; Central verifies its digest."""
        reply = await self._http.send_bytes(
            routes.PACKAGE_UPLOAD, content, content_type="application/octet-stream", names={"sha256": sha256}
        )
        return structure(reply, AgentPackage)

    async def packages(self) -> tuple[AgentPackage, ...]:
        """All packages."""
        return await self._all(routes.PACKAGE_LIST, AgentPackage)

    async def create_rollout(self, site_id: str, rollout: NewRollout) -> Rollout:
        """Begin a rollout."""
        return await self._http.call(routes.ROLLOUT_CREATE, Rollout, names={"site_id": site_id}, body=rollout)

    async def rollouts(self, site_id: str) -> tuple[Rollout, ...]:
        """All rollouts of a site."""
        return await self._all(routes.ROLLOUT_LIST, Rollout, site_id=site_id)

    async def pause_rollout(self, site_id: str, rollout_id: str) -> Rollout:
        """Hold a rollout; running hosts are finished."""
        return await self._on_rollout(routes.ROLLOUT_PAUSE, site_id, rollout_id)

    async def resume_rollout(self, site_id: str, rollout_id: str) -> Rollout:
        """Let a held rollout go on."""
        return await self._on_rollout(routes.ROLLOUT_RESUME, site_id, rollout_id)

    async def cancel_rollout(self, site_id: str, rollout_id: str) -> Rollout:
        """End a rollout; what is installed stays."""
        return await self._on_rollout(routes.ROLLOUT_CANCEL, site_id, rollout_id)

    async def retry_rollout(self, site_id: str, rollout_id: str) -> Rollout:
        """Try the hosts again now that have no agent."""
        return await self._on_rollout(routes.ROLLOUT_RETRY, site_id, rollout_id)

    async def _on_rollout(self, route: Route, site_id: str, rollout_id: str) -> Rollout:
        return await self._http.call(route, Rollout, names={"site_id": site_id, "rollout_id": rollout_id})

    # Oversight.

    async def login_code(self) -> LoginCode:
        """A code that opens the pages once, for five minutes."""
        return await self._http.call(routes.LOGIN_CODE, LoginCode)

    async def audit(self) -> tuple[AuditEntry, ...]:
        """Who did what."""
        return await self._all(routes.AUDIT, AuditEntry)

    async def _all(self, route: Route, kind: type[T], **names: str) -> tuple[T, ...]:
        found: list[T] = []
        cursor: str | None = None
        while True:
            query = {"cursor": cursor} if cursor is not None else None
            page = await self._http.call(route, Page[kind], names=names, query=query)  # type: ignore[valid-type]
            found.extend(page.items)
            cursor = page.next_cursor
            if cursor is None:
                return tuple(found)
