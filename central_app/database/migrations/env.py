"""Alembic's entry: it runs on the connection that :mod:`central_app.database.schema` hands it."""

from __future__ import annotations

from alembic import context

import central_app.database.upload_tables  # noqa: F401 (its tables are of the same metadata)
from central_app.database.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, compare_type=True)
with context.begin_transaction():
    context.run_migrations()
