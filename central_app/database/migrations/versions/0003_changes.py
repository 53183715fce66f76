"""Changes of a directory are kept beside the last full enumeration, and what they go on from is known.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from central_app.database.types import Instant

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("enumerations", sa.Column("full", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("enumerations", sa.Column("changes_at", Instant(), nullable=True))
    op.add_column("enumerations", sa.Column("cursor_sha256", sa.String(length=64), nullable=True))
    # Until now there was nothing but full ones.
    op.execute('UPDATE enumerations SET "full" = result WHERE full_at IS NOT NULL')
    for name in ("result", "result_at", "result_generation"):
        op.drop_column("enumerations", name)
