"""Devices that were revoked stay refused after their place was given away; what was delivered last is known.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from central_app.database.types import Instant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "ended_devices",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("device", sa.String(length=80), nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("ended_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "device", name=op.f("pk_ended_devices")),
    )
    # It was never written: what an appliance's last discovery named is read from the discovery.
    op.drop_column("appliances", "ad_site")
    op.add_column("appliances", sa.Column("delivered", sa.JSON(none_as_null=True), nullable=True))
