"""What the user sees: results on stdout, notes on stderr, colours only on a terminal, every id whole in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import orjson
from msgspec import Struct

if TYPE_CHECKING:
    from rich.console import Console

NOTHING = "-"
STYLES = {
    "completed": "green",
    "healthy": "green",
    "idle": "green",
    "running": "cyan",
    "busy": "cyan",
    "assigned": "cyan",
    "failed": "red",
    "unhealthy": "red",
    "unassignable": "yellow",
    "degraded": "yellow",
    "cancelled": "yellow",
    "offline": "yellow",
}


class Column(Struct, frozen=True):
    """A column of a table: its heading, the field it shows, and whether a narrow terminal may fold it."""

    heading: str
    field: str
    folds: bool = False


def note(sentence: str) -> None:
    """Tell the user something that is no result."""
    click.echo(clean(sentence), err=True)


def emit(document: Any) -> None:
    """One JSON document and a line end; bytes are the server's own and go out as they came."""
    data = document if isinstance(document, bytes) else orjson.dumps(document)
    click.echo(data.decode("utf-8", "replace"))


def line(text: str) -> None:
    """One line of a result."""
    click.echo(clean(text))


def clean(text: str) -> str:
    """Text with its control characters made visible: a task's output must not drive the user's terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def cell(value: Any) -> str:
    """A value as one line of a table."""
    if value is None or value in ("", [], {}):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return clean(", ".join(map(str, value)))
    text = orjson.dumps(value).decode() if isinstance(value, dict | list) else str(value)
    return clean(text).replace("\n", "\\n")


def table(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> None:
    """A table: fitted to a terminal, or in plain columns that `awk` understands."""
    cells = [[cell(row.get(column.field)) for column in columns] for row in rows]
    if sys.stdout.isatty():
        _rich_table(columns, cells)
        return
    headings = [column.heading.upper() for column in columns]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for row in [headings, *cells]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def fields(document: Mapping[str, Any]) -> None:
    """Keys and values; lists of objects become tables below them, unknown values say why they are unknown."""
    tables: dict[str, list[dict[str, Any]]] = {}
    pairs: list[tuple[str, str]] = []
    for name, value in _flat(document):
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            tables[name] = value
        else:
            pairs.append((name, cell(value)))
    width = max((len(name) for name, _ in pairs), default=0)
    for name, text in pairs:
        click.echo(f"{name.ljust(width)}  {_styled(text)}")
    for name, rows in tables.items():
        click.echo(f"\n{name}")
        names = dict.fromkeys(key for row in rows for key in row)
        table([Column(key, key, folds=True) for key in names], rows)


def console(*, err: bool = False) -> Console:
    """A rich console on one of the two streams."""
    from rich.console import Console  # noqa: PLC0415 - most commands end without it

    return Console(stderr=err, highlight=False)


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    reasons = document.get("unknown")
    reasons = reasons if isinstance(reasons, dict) else {}
    for key, value in document.items():
        if key == "unknown":
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif value is None and key in reasons:
            yield f"{prefix}{key}", f"unknown: {reasons[key]}"
        else:
            yield f"{prefix}{key}", value


def _styled(text: str) -> str:
    colour = STYLES.get(text)
    return click.style(text, fg=colour) if colour and coloured() else text


def coloured() -> bool:
    """Whether stdout is a terminal whose user wants colours (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _rich_table(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    from rich.table import Table  # noqa: PLC0415 - only a terminal needs it
    from rich.text import Text  # noqa: PLC0415

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        shown.add_column(column.heading, overflow="fold", no_wrap=not column.folds)
    for row in cells:
        # Text, not markup: a task may be called "[bold]".
        shown.add_row(*(Text(text, style=STYLES.get(text, "")) for text in row))
    console().print(shown)
