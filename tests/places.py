"""Where a test keeps its databases: files beside it, or schemas of a real Postgres."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.sql.postgres import Postgres

_server: list[str] = []


def place(path: Path) -> Path | Postgres:
    """The file itself; inside `on_postgres` a schema that stands for it."""
    return schema_for(_server[-1], path) if _server else path


def schema_for(url: str, path: Path) -> Postgres:
    """A schema that only this path has."""
    return Postgres(url, "t_" + hashlib.sha256(str(path).encode()).hexdigest()[:20])


@contextmanager
def on_postgres(url: str) -> Iterator[None]:
    """Every `place` lies on this server."""
    _server.append(url)
    try:
        yield
    finally:
        _server.pop()
