"""Computers are ordered and searched by a name that we fold; a report that arrives is kept apart until it is whole.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from central_app.database.folding import fold
from central_app.database.types import Folded, Instant

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("computers", sa.Column("folded_hostname", Folded, nullable=False, server_default=""))
    op.add_column("computers", sa.Column("folded_fqdn", Folded, nullable=True))
    _fold_names()
    op.drop_index("ix_computers_site_id_hostname", "computers")
    op.create_index(op.f("ix_computers_site_id_folded_hostname"), "computers", ["site_id", "folded_hostname"])
    op.create_table(
        "uploads",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("started_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "id", name=op.f("pk_uploads")),
    )
    op.create_table(
        "uploaded_computers",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("upload_id", sa.String(length=40), nullable=False),
        sa.Column("object_guid", sa.String(length=40), nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("fqdn", sa.String(length=255), nullable=True),
        sa.Column("folded_hostname", Folded, nullable=False),
        sa.Column("folded_fqdn", Folded, nullable=True),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "upload_id", "object_guid", name=op.f("pk_uploaded_computers")),
    )


def _fold_names() -> None:
    names = ("site_id", "object_guid", "hostname", "fqdn", "folded_hostname", "folded_fqdn")
    table = sa.table("computers", *map(sa.column, names))
    connection = op.get_bind()
    rows = connection.execute(sa.select(table.c.site_id, table.c.object_guid, table.c.hostname, table.c.fqdn)).all()
    change = (
        sa.update(table)
        .where(table.c.site_id == sa.bindparam("of_site"), table.c.object_guid == sa.bindparam("of_guid"))
        .values(folded_hostname=sa.bindparam("name"), folded_fqdn=sa.bindparam("full_name"))
    )
    found = [
        {"of_site": site, "of_guid": guid, "name": fold(name), "full_name": fold(full_name)}
        for site, guid, name, full_name in rows
    ]
    if found:
        connection.execute(change, found)
