"""Alembic migrations of the store. The views need none: they are rebuilt."""
