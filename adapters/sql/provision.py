"""Before anything else on a Postgres server: reach it, and see that there is a schema to work in.

Two programs that start at once meet at an advisory lock: one creates and migrates, the other waits and finds it done.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any
from urllib.parse import unquote, urlsplit

from adapters.sql import faults
from adapters.sql.postgres import Postgres, connect_to, driver
from adapters.sql.turns import LOCK, LOCK_S_MAX
from core.kernel.errors import StartRefused

logger = logging.getLogger("hivebus.database")

# A server that starts together with this program, as in a stack of containers.
REACH_S_MAX = 20.0
RETRY_S = 0.25

_URL = "HIVEBUS_DATABASE_URL (or in the file that HIVEBUS_DATABASE_URL_FILE names)"


async def provision(place: Postgres) -> None:
    """Make sure that the schema is there. Raises StartRefused with what to do."""
    connection = await _reach(place)
    try:
        async with asyncio.timeout(LOCK_S_MAX):
            await _create(connection, place)
    except driver().PostgresError as error:
        raise refusal(place, error) from error
    except (OSError, driver().InterfaceError) as error:
        raise _unreachable(place, error) from error
    finally:
        connection.terminate()


async def _reach(place: Postgres) -> Any:
    asyncpg = driver()
    deadline = time.monotonic() + REACH_S_MAX
    told = False
    while True:
        try:
            return await connect_to(place, {}, None)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if isinstance(error, asyncpg.InterfaceError):
                raise _unreadable() from None
            waits = isinstance(error, OSError) or faults.sqlstate(error)[:2] in ("08", "53", "57")
            if not waits:
                raise refusal(place, error) from error
            if time.monotonic() >= deadline:
                raise _unreachable(place, error) from error
            if not told:
                logger.warning("Waiting for the database at %s (%s).", place.where, faults.said(error))
                told = True
        except (ValueError, TypeError):
            raise _unreadable() from None
        await asyncio.sleep(RETRY_S)


async def _create(connection: Any, place: Postgres) -> None:
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise StartRefused(
            f"The database at {place.where} has the encoding {encoding}.",
            remedy="Create one that can hold every text: CREATE DATABASE hivebus ENCODING 'UTF8' TEMPLATE template0",
            code="database_encoding",
        )
    if await _exists(connection, place):
        if not await connection.fetchval("SELECT has_schema_privilege($1, 'USAGE')", place.schema):
            raise _forbidden(place, "the schema is another user's", f"ALTER SCHEMA {place.schema} OWNER TO")
        return
    # CREATE SCHEMA IF NOT EXISTS fails when two do it at once.
    await connection.execute("SELECT pg_advisory_lock($1, hashtext($2))", LOCK, place.schema)
    if not await _exists(connection, place):
        await connection.execute(f'CREATE SCHEMA "{place.schema}"')


async def _exists(connection: Any, place: Postgres) -> bool:
    found = await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = $1", place.schema)
    return bool(found)


def refusal(place: Postgres, error: BaseException) -> StartRefused:
    """Why a start on this database cannot go on."""
    state = faults.sqlstate(error)
    user = _user(place)
    if state[:2] == "28":
        return StartRefused(
            f"Postgres at {place.where} does not let {user} in ({faults.said(error)}).",
            remedy=f"Correct user and password in {_URL}; special characters in them are percent-encoded.",
            code="database_denied",
        )
    if state == "3D000":
        return StartRefused(
            f"There is no database {place.where}.",
            remedy=f"Create it: createdb -E UTF8 NAME; or correct the name in {_URL}.",
            code="database_missing",
        )
    if state == "42501":
        database = unquote(urlsplit(place.dsn).path[1:])
        return _forbidden(place, faults.said(error), f'GRANT CREATE ON DATABASE "{database}" TO')
    if state == "55P03":
        return StartRefused(
            f"Another program has been preparing the schema {place.schema} at {place.where} for too long.",
            remedy="Wait for its migration to end, or end that program, then start again.",
            code="database_busy",
        )
    return _unreachable(place, error)


def _user(place: Postgres) -> str:
    return unquote(urlsplit(place.dsn).username or "this user")


def _forbidden(place: Postgres, why: str, grant: str) -> StartRefused:
    return StartRefused(
        f"{_user(place)} may not work in the schema {place.schema} at {place.where} ({why}).",
        remedy=f'Once, as an administrator: {grant} "{_user(place)}"',
        code="database_forbidden",
    )


def _unreachable(place: Postgres, error: BaseException) -> StartRefused:
    return StartRefused(
        f"The database at {place.where} does not answer ({faults.said(error)}).",
        remedy=f"Start Postgres, or correct host and port in {_URL}.",
        code="database_unavailable",
    )


def _unreadable() -> StartRefused:
    return StartRefused(
        "The driver cannot read the database's address.",
        remedy=f"Correct {_URL}: postgresql://user:password@host:5432/database, special characters percent-encoded.",
        code="database_url",
    )
