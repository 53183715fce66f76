"""The partner (the MSP): who it is, its people and their keys."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from attrs import field, frozen

from msp_sdk.secret import Secret

Role = Literal["admin", "technician", "viewer"]


@frozen
class Partner:
    """The MSP, as an appliance shows it."""

    id: str
    slug: str
    brand_name: str
    primary_color: str = "#1f4e79"
    logo_url: str | None = None


@frozen
class SessionRequest:
    """Open a page session with an API key or a one-time login code."""

    api_key: Secret | None = None
    code: Secret | None = None


@frozen
class Session:
    """An opened page session; the cookie travels beside it. Send ``csrf_token`` in ``X-CSRF-Token``."""

    csrf_token: str = field(repr=False)
    role: Role
    expires_at: datetime


@frozen
class LoginCode:
    """A code that opens one page session, once, for five minutes."""

    code: Secret
    expires_at: datetime


@frozen
class UserRequest:
    """A person to add."""

    email: str
    role: Role = "technician"


@frozen
class User:
    """A person of the partner."""

    id: str
    email: str
    role: Role
    created_at: datetime


@frozen
class ApiKeyRequest:
    """A key to make for a user."""

    user_id: str
    label: str = ""


@frozen
class ApiKey:
    """An API key; ``api_key`` is there only in the reply that makes it."""

    id: str
    user_id: str
    label: str
    role: Role
    created_at: datetime
    last_used_at: datetime | None = None
    api_key: Secret | None = None
