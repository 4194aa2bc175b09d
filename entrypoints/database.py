"""Where the settings put store and views: files of the data directory, or a Postgres."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from core.kernel.errors import StartRefused
from entrypoints.settings import Settings, secret_text

if TYPE_CHECKING:
    from adapters.sql.postgres import Postgres

SCHEMES = ("postgresql", "postgresql+asyncpg")
_REMEDY = (
    "Write it as postgresql://user:password@host:5432/database; the characters / ? # @ : % in a user or password are "
    "percent-encoded. For SQLite unset it."
)


def places(settings: Settings, root: Path) -> tuple[Path | Postgres, Path | Postgres]:
    """Where the store is, and where the views are. Raises StartRefused for an address that is none."""
    address = address_of(settings)
    if not address:
        return root / "store.db", root / "views.db"
    from adapters.sql.postgres import Postgres  # noqa: PLC0415 - a start on SQLite does not pay for it

    # The driver knows no scheme that names it.
    dsn = address.replace("postgresql+asyncpg:", "postgresql:", 1)
    return Postgres(dsn, settings.database_schema), Postgres(dsn, f"{settings.database_schema}_views")


def address_of(settings: Settings) -> str:
    """The address of the Postgres, checked; empty for none. A file is read here."""
    url = secret_text(settings.database_url, settings.database_url_file, "HIVEBUS_DATABASE_URL")
    if url:
        _check(url)
    return url


def _check(url: str) -> None:
    """Refuse what is no address of a Postgres. No part of it is shown: any part may be a password."""
    if url.partition("://")[0] not in SCHEMES:
        raise StartRefused("HIVEBUS_DATABASE_URL is no postgresql:// address.", remedy=_REMEDY)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _malformed() from None
    # A password with a raw / ? or # ends up behind the host, and its @ with it.
    if port == 0 or parts.fragment or "@" in parts.path + parts.query:
        raise _malformed()
    if not parts.hostname or len(parts.path) < 2 or "/" in parts.path[1:]:
        raise StartRefused("HIVEBUS_DATABASE_URL names no host, or no database.", remedy=_REMEDY)


def _malformed() -> StartRefused:
    return StartRefused("HIVEBUS_DATABASE_URL cannot be read: host, port or password is malformed.", remedy=_REMEDY)
