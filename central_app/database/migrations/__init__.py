"""Alembic migrations of Central."""
