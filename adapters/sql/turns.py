"""One program at a time changes a schema."""

from __future__ import annotations

import logging

from sqlalchemy import Connection, text

logger = logging.getLogger("hivebus.database")

# The first half of the advisory lock's key; the second is the schema's name.
LOCK = 0x48495645
LOCK_S_MAX = 120.0


def take_turn(connection: Connection) -> None:
    """Let one program at a time change the schema, until the transaction ends. On SQLite the write lock does it."""
    if connection.dialect.name != "postgresql":
        return
    key = {"lock": LOCK, "schema": connection.scalar(text("SELECT current_schema()"))}
    lock = "advisory_xact_lock(CAST(:lock AS integer), hashtext(CAST(:schema AS text)))"
    if connection.scalar(text(f"SELECT pg_try_{lock}"), key):
        return
    logger.info("Another program prepares the database; this one waits for it.")
    connection.execute(text(f"SET LOCAL lock_timeout = {int(LOCK_S_MAX * 1000)}"))
    connection.execute(text(f"SELECT pg_{lock}"), key)
