"""How Alembic reaches the store.

The program hands over its own connection (`config.attributes["connection"]`) and keeps the transaction. The command
line names a database instead: `alembic -x url=sqlite:///store.db upgrade head`.
"""

from __future__ import annotations

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine

from adapters.sql.schema import metadata


def run(connection: Connection) -> None:
    """Migrate inside the connection's transaction: SQLite's DDL takes part in it once BEGIN was said."""
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


def run_from_command_line() -> None:
    """Connect to the database that `-x url=` names; with --sql only write the statements."""
    url = context.get_x_argument(as_dictionary=True).get("url")
    if not isinstance(url, str):
        raise CommandError("Name the database: alembic -x url=sqlite:///store.db <command>")
    if context.is_offline_mode():
        context.configure(url=url, target_metadata=metadata, literal_binds=True)
        with context.begin_transaction():
            context.run_migrations()
        return
    engine = create_engine(url)
    with engine.begin() as connection:
        run(connection)
    engine.dispose()


given = context.config.attributes.get("connection")
if given is None:
    run_from_command_line()
else:
    run(given)
