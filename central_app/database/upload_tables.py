"""Reports of computers that are still arriving. Nobody sees them: a whole one is moved to ``computers`` at once."""

from __future__ import annotations

from sqlalchemy import JSON, Column, String, Table

from central_app.database.tables import metadata
from central_app.database.types import Folded, Instant

uploads = Table(
    "uploads",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("id", String(40), primary_key=True),
    Column("started_at", Instant, nullable=False),
)

uploaded_computers = Table(
    "uploaded_computers",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("upload_id", String(40), primary_key=True),
    Column("object_guid", String(40), primary_key=True),
    Column("hostname", String(255), nullable=False),
    Column("fqdn", String(255)),
    Column("folded_hostname", Folded, nullable=False),
    Column("folded_fqdn", Folded),
    Column("role", String(20), nullable=False),
    Column("data", JSON(none_as_null=True), nullable=False),
)
