"""Every path of the wire, once. Central serves them and the clients call them from here.

Example:
    >>> SITE_STATUS.url(site_id="site-1")
    '/api/sites/site-1/deployment-status'
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import quote

from attrs import frozen

Caller = Literal["anyone", "appliance", "partner", "either"]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


@frozen
class Route:
    """One call: its method, its path with ``{names}``, who may make it, and whether repeating it does no harm."""

    method: Method
    path: str
    caller: Caller
    idempotent: bool = False

    def url(self, **names: str) -> str:
        """The path with its names filled in and quoted."""
        return self.path.format(**{name: quote(value, safe="") for name, value in names.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the path, in order."""
        return tuple(re.findall(r"{(\w+)}", self.path))


def _get(path: str, caller: Caller = "partner") -> Route:
    return Route("GET", path, caller, idempotent=True)


def _put(path: str, caller: Caller = "partner") -> Route:
    return Route("PUT", path, caller, idempotent=True)


def _delete(path: str, caller: Caller = "partner") -> Route:
    return Route("DELETE", path, caller, idempotent=True)


def _post(path: str, caller: Caller = "partner", *, idempotent: bool = False) -> Route:
    return Route("POST", path, caller, idempotent=idempotent)


# Provisioning. A claim is idempotent by device, a report by its id.
CLAIM = _post("/api/partners/claim", "anyone", idempotent=True)
PROVISION_CREATE = _post("/api/partners/me/provisions")
PROVISION_BULK = _post("/api/partners/me/provisions/bulk")
PROVISION_LIST = _get("/api/partners/me/provisions")
PROVISION_REVOKE = _delete("/api/partners/me/provisions/{provision_id}")
PROVISION_QR = _get("/api/partners/me/provisions/{provision_id}/qr")

# Appliances.
CHECKIN = _post("/api/appliances/checkin", "appliance", idempotent=True)
REPORT_DISCOVERY = _post("/api/appliances/domain-discovered", "appliance", idempotent=True)
REPORT_ENUMERATION = _post("/api/appliances/enumeration-results", "appliance", idempotent=True)
REPORT_TARGETS = _post("/api/appliances/targets", "appliance", idempotent=True)
REPORT_DEPLOYMENTS = _post("/api/appliances/agent-deployments", "appliance", idempotent=True)
REPORT_SCAN = _post("/api/appliances/scan-results", "appliance", idempotent=True)
REPORT_RUNBOOK = _post("/api/appliances/runbook-results", "appliance", idempotent=True)

# Sessions and people.
SESSION_OPEN = _post("/api/session", "anyone")
SESSION_CLOSE = _delete("/api/session")
LOGIN_CODE = _post("/api/partners/me/login-codes")
USER_CREATE = _post("/api/partners/me/users")
USER_LIST = _get("/api/partners/me/users")
KEY_CREATE = _post("/api/partners/me/keys")
KEY_LIST = _get("/api/partners/me/keys")
KEY_REVOKE = _delete("/api/partners/me/keys/{key_id}")

# Sites.
SITE_CREATE = _post("/api/sites")
SITE_LIST = _get("/api/sites")
SITE_GET = _get("/api/sites/{site_id}")
SITE_CHANGE = Route("PATCH", "/api/sites/{site_id}", "partner", idempotent=True)
SITE_DELETE = _delete("/api/sites/{site_id}")
SITE_STATUS = _get("/api/sites/{site_id}/deployment-status")
SITE_EVENTS = _get("/api/sites/{site_id}/events")
SITE_DOMAINS = _get("/api/sites/{site_id}/domains")
SITE_COMPUTERS = _get("/api/sites/{site_id}/computers")
SITE_TARGETS = _get("/api/sites/{site_id}/targets")
SITE_DEPLOYMENTS = _get("/api/sites/{site_id}/deployments")
SITE_SCAN_RESULTS = _get("/api/sites/{site_id}/scan-results")
APPLIANCE_LIST = _get("/api/sites/{site_id}/appliances")
APPLIANCE_APPROVE = _post("/api/sites/{site_id}/appliances/{appliance_id}/approve", idempotent=True)
APPLIANCE_REVOKE = _post("/api/sites/{site_id}/appliances/{appliance_id}/revoke", idempotent=True)
APPLIANCE_REPLACE = _post("/api/sites/{site_id}/appliances/{appliance_id}/replace", idempotent=True)
MANUAL_TARGETS_GET = _get("/api/sites/{site_id}/manual-targets")
MANUAL_TARGETS_PUT = _put("/api/sites/{site_id}/manual-targets")
ENUMERATION_WISH = _post("/api/sites/{site_id}/enumerations")
SCAN_WISH = _post("/api/sites/{site_id}/scans")

# Credentials.
DOMAIN_CREDENTIAL_CREATE = _post("/api/sites/{site_id}/domain-credentials")
DOMAIN_CREDENTIAL_LIST = _get("/api/sites/{site_id}/domain-credentials", "either")
CREDENTIAL_CREATE = _post("/api/sites/{site_id}/credentials")
CREDENTIAL_LIST = _get("/api/sites/{site_id}/credentials")
CREDENTIAL_ROTATE = _put("/api/sites/{site_id}/credentials/{credential_id}")
CREDENTIAL_DELETE = _delete("/api/sites/{site_id}/credentials/{credential_id}")
CREDENTIAL_RETRY = _post("/api/sites/{site_id}/credentials/{credential_id}/retry")

# Packages and rollouts.
PACKAGE_CREATE = _post("/api/packages", idempotent=True)
PACKAGE_UPLOAD = _put("/api/packages/{sha256}")
PACKAGE_LIST = _get("/api/packages")
PACKAGE_DOWNLOAD = _get("/api/packages/{sha256}", "either")
ROLLOUT_CREATE = _post("/api/sites/{site_id}/rollouts")
ROLLOUT_LIST = _get("/api/sites/{site_id}/rollouts")
ROLLOUT_GET = _get("/api/sites/{site_id}/rollouts/{rollout_id}")
ROLLOUT_PAUSE = _post("/api/sites/{site_id}/rollouts/{rollout_id}/pause", idempotent=True)
ROLLOUT_RESUME = _post("/api/sites/{site_id}/rollouts/{rollout_id}/resume", idempotent=True)
ROLLOUT_CANCEL = _post("/api/sites/{site_id}/rollouts/{rollout_id}/cancel", idempotent=True)
ROLLOUT_RETRY = _post("/api/sites/{site_id}/rollouts/{rollout_id}/retry")

# Oversight.
AUDIT = _get("/api/audit")
HEALTHZ = _get("/healthz", "anyone")
READYZ = _get("/readyz", "anyone")

ROUTES: tuple[Route, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Route))
