"""Bring a store to today's schema when the program starts."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from sqlalchemy import Connection, inspect, text

from adapters.sql.engine import Engines, preparing
from adapters.sql.turns import take_turn
from core.kernel.errors import StartRefused

# Alembic takes 180 ms to import, of the 1.5 s that a start may take; a test holds this equal to its head.
HEAD = "0002"

# Alembic's context is global to the process.
_alembic = Lock()


async def migrate(engines: Engines) -> None:
    """Upgrade to HEAD, creating what is missing, in one transaction; nothing happens where the schema is current.

    Of several processes that start at once one upgrades and the others find it done. Raises StartRefused for a
    revision that this program does not know, and for a server that does not let it work.
    """
    async with preparing(engines) as thread:
        async with engines.readers.connect() as connection:
            if await connection.run_sync(stored_revision) == HEAD:
                return
        await thread.transact(_upgrade)


def stored_revision(connection: Connection) -> str | None:
    """The revision that the database says it has; None for a new one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _upgrade(connection: Connection) -> None:
    take_turn(connection)
    stored = stored_revision(connection)
    # Another process may have come first while this one waited for the write lock.
    if stored != HEAD:
        with _alembic:
            _run_alembic(connection, stored)


def _run_alembic(connection: Connection, stored: str | None) -> None:
    from alembic import command  # noqa: PLC0415 - only a start that has something to migrate pays for it
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    import migrations  # noqa: PLC0415

    config = Config()
    # Interpolation is configparser's: a percent sign in a path has to be doubled.
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if stored is not None and stored not in known:
        raise StartRefused(
            f"The store has schema revision {stored}; this program knows revisions up to {HEAD}.",
            remedy="Start the newer program that wrote it, or restore a backup from before its upgrade.",
            code="store_newer",
            stored_revision=stored,
            known_revision=HEAD,
        )
    command.upgrade(config, "head")
