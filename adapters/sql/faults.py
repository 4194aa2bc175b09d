"""What a database error means: wait and try again, a value that cannot be held, or a defect.

Told by SQLSTATE (PostgreSQL manual, appendix A) and by what a socket raises, so that nothing here needs the driver.
"""

from __future__ import annotations

from sqlalchemy import exc

from core.kernel.errors import Unavailable

RETRY_AFTER_S = 1.0

# Connection, resources, operator, system error, rollback (a rival), lock not available, a server that only reads,
# and a password or a database that is not there any more: all end when somebody mends the server.
_WAIT_CLASSES = ("08", "25", "28", "3D", "40", "53", "55", "57", "58")
# Data exceptions, and values over a limit of the server (an index row, a nesting).
_VALUE_CLASSES = ("22", "54")


def sqlstate(error: BaseException) -> str:
    """The five characters that a Postgres error has, through SQLAlchemy's wrapping; empty for others."""
    inner = getattr(error, "orig", None) or error
    return str(getattr(inner, "sqlstate", None) or "")


def is_outage(error: BaseException) -> bool:
    """Whether the server is away, overloaded or read-only: the same statement may succeed later."""
    if isinstance(error, OSError | exc.TimeoutError):
        return True
    if isinstance(error, exc.DBAPIError) and (error.connection_invalidated or _closed(error)):
        return True
    return sqlstate(error)[:2] in _WAIT_CLASSES


def is_value(error: BaseException) -> bool:
    """Whether the database cannot hold a value: no other attempt will do better."""
    inner = getattr(error, "orig", None) or error
    # The driver refuses what does not fit its wire types before anything is sent.
    return sqlstate(error)[:2] in _VALUE_CLASSES or isinstance(inner.__cause__, ValueError | OverflowError)


def outage(error: BaseException, where: str) -> Unavailable:
    """The error that a caller gets; `where` is the server without its credentials."""
    return Unavailable(
        f"The database at {where} does not answer ({said(error)}).",
        code="database_unavailable",
        remedy="See that Postgres runs and can be reached. Commands are accepted meanwhile, and views catch up after.",
        retry_after_s=RETRY_AFTER_S,
    )


def said(error: BaseException) -> str:
    """The first line of what the driver says, without the statement and its values."""
    inner = getattr(error, "orig", None) or error
    cause = inner.__cause__ or inner
    first = next(iter(str(cause).splitlines()), "")
    return f"{type(cause).__name__}: {first}"[:200] if first else type(cause).__name__


def _closed(error: exc.DBAPIError) -> bool:
    return isinstance(error, exc.InterfaceError) and "closed" in str(error.orig)
