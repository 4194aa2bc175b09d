"""Live row versions: whatever the batches, the rows, their spans and the checksums are those of the fold."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as sampled
from hypothesis import settings
from hypothesis import strategies as st
from sqlalchemy import JSON, Boolean, Column, Float, MetaData, String, Table, create_engine, select

from adapters.sql.rows import CHECKSUM_ZERO, Shape, add_checksum, checksum_of, writer_of
from adapters.sql.views import SqlViews, ViewState
from core.agent import AgentDraining, AgentRetired, AgentStopped
from core.kernel.commit import Commit, Event
from core.projection import FOREVER, Row, RowView, View
from projections.catalogue import VIEWS
from projections.timeline import Timeline, timeline
from projections.view import true_at, versioned
from tests.given import NOW_MS, STEPS, History, Simulation, projected, rows_of, spawned, started
from tests.places import place

pytestmark = pytest.mark.usefixtures("each_database")

boxes = Table(
    "boxes",
    MetaData(),
    Column("id", String(36), primary_key=True),
    *versioned(),
    Column("items", JSON, nullable=False),
    Column("weight", Float, nullable=False),
    Column("open", Boolean, nullable=False),
)


class Boxes(RowView):
    """A box for each agent: every event goes in, the newest three stay, and a retired agent has none."""

    name = "boxes"
    table = boxes
    nouns = frozenset({"agent"})

    def touched(self, commit: Commit, event: Event) -> Iterable[str]:
        return (commit.aggregate_id,)

    def fold(self, row: Row | None, commit: Commit, event: Event) -> Row | None:
        match event:
            case AgentRetired():
                return None
            case AgentStopped(reason="poison"):
                raise ValueError("this box cannot be folded")
            case AgentDraining():
                return row
            case _:
                before = row or {"items": [], "weight": 0.0, "open": False}
                items = [*before["items"], type(event).__name__][-3:]
                weight = before["weight"] + 0.5
                return {"id": commit.aggregate_id, "items": items, "weight": weight, "open": not before["open"]}


class Unkept(Boxes):
    """The same, read from the table for every batch."""

    rows_kept = 0


def spans(view: RowView, history: History) -> list[dict[str, Any]]:
    """The row versions by the fold alone, one commit after the other."""
    versions: dict[str, list[dict[str, Any]]] = {}
    current: dict[str, Row | None] = {}
    for commit in history.commits:
        changed = set()
        for event in commit.events if commit.noun in view.nouns else ():
            for key in view.touched(commit, event):
                before = current.get(key)
                current[key] = view.fold(before, commit, event)
                changed |= {key} if current[key] is not before else set()
        for key in changed:
            known = versions.setdefault(key, [])
            if known and known[-1]["valid_to"] == FOREVER:
                known[-1]["valid_to"] = commit.position
            row = current[key]
            if row is not None:
                known.append({**row, "valid_from": commit.position, "valid_to": FOREVER})
    return sorted((row for known in versions.values() for row in known), key=_by_key)


def _by_key(row: dict[str, Any]) -> tuple[str, int]:
    return row["id"], row["valid_from"]


def checksum(table: Table, rows: Sequence[Row]) -> bytes:
    """The checksum over the rows that are true now."""
    cells_of = Shape(table).cells_of
    true_now = [row for row in rows if row.get("valid_to", FOREVER) == FOREVER]
    return add_checksum(CHECKSUM_ZERO, sum(checksum_of(cells_of(row)) for row in true_now))


def test_a_checksum_is_over_the_cells_in_the_order_of_the_columns_with_json_as_text() -> None:
    cells = Shape(boxes).cells_of({"open": True, "weight": 0.5, "items": ["a", None], "id": "x"})
    assert cells == ("x", '["a",null]', 0.5, True)
    digest = hashlib.sha256(b'["x","[\\"a\\",null]",0.5,true]').digest()
    assert checksum_of(cells) == int.from_bytes(digest[:16], "big")


async def table_of(views: SqlViews, table: Table) -> list[dict[str, Any]]:
    return sorted(await rows_of(views, select(table)), key=_by_key)


def batches(history: History, cuts: Iterable[int]) -> Iterator[tuple[Sequence[Commit], int]]:
    """A history in pieces that end at these positions; each with its end."""
    edges = sorted({0, *(n % (history.head + 1) for n in cuts), history.head})
    for start, end in pairwise(edges):
        yield history.commits[start:end], end


@asynccontextmanager
async def cut(folder: Path, views: Sequence[View], history: History, cuts: Iterable[int]) -> AsyncIterator[SqlViews]:
    """Views that have folded a history in such batches."""
    opened = await SqlViews.open(place(folder / "views.db"), views)
    try:
        for commits, end in batches(history, cuts):
            await opened.apply(commits, end)
        yield opened
    finally:
        await opened.close()


def written(view: View, history: History, cuts: Iterable[int]) -> tuple[list[dict[str, Any]], bytes]:
    """The table and the checksum that a view's writer makes of such batches, in memory."""
    writer = writer_of(view)
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            view.table.create(connection)
            sum_ = CHECKSUM_ZERO
            for commits, _ in batches(history, cuts):
                sum_ = add_checksum(sum_, writer.write(connection, commits))
            rows = connection.execute(select(view.table).order_by(*view.table.primary_key.columns)).mappings()
            return [dict(row) for row in rows], sum_
    finally:
        engine.dispose()


def agents(*commits: tuple[str, Sequence[Event]]) -> History:
    history = History(folding=False)
    for id_, events in commits:
        history.commit("agent", id_, *events)
    return history


SPAWN, START, STOP, DRAIN, RETIRE = spawned(), started(), AgentStopped(reason="x"), AgentDraining(), AgentRetired()
POISON = AgentStopped(reason="poison")


def box(id_: str, items: list[str], weight: float, since: int, until: int = FOREVER) -> dict[str, Any]:
    fields = {"id": id_, "items": items, "weight": weight, "open": weight % 1 == 0.5}
    return fields | {"valid_from": since, "valid_to": until}


# Versions


async def test_each_commit_that_changes_a_row_makes_a_version_that_was_true_until_the_next(tmp_path: Path) -> None:
    history = agents(("a", [SPAWN]), ("b", [SPAWN]), ("a", [START]))
    async with projected(tmp_path, [Boxes()], history) as views:
        rows = await table_of(views, boxes)
        assert rows == [
            box("a", ["AgentSpawned"], 0.5, 1, 3),
            box("a", ["AgentSpawned", "AgentStarted"], 1.0, 3),
            box("b", ["AgentSpawned"], 0.5, 2),
        ]
        assert views.states == {"boxes": ViewState(Boxes.version(), 3, checksum(boxes, rows))}
        assert views.position == 3


async def test_several_events_of_one_commit_make_one_version(tmp_path: Path) -> None:
    history = agents(("a", [SPAWN, START, STOP]))
    async with projected(tmp_path, [Boxes()], history) as views:
        assert await table_of(views, boxes) == [box("a", ["AgentSpawned", "AgentStarted", "AgentStopped"], 1.5, 1)]


async def test_an_event_that_changes_nothing_makes_no_version(tmp_path: Path) -> None:
    async with projected(tmp_path, [Boxes()], agents(("a", [SPAWN]), ("a", [DRAIN]))) as views:
        assert await table_of(views, boxes) == [box("a", ["AgentSpawned"], 0.5, 1)]


@pytest.mark.parametrize("cuts", [[], [1], [2], [1, 2, 3], [3]], ids=str)
async def test_a_removed_row_was_true_until_then_and_can_come_again(tmp_path: Path, cuts: list[int]) -> None:
    history = agents(("a", [SPAWN]), ("a", [RETIRE]), ("a", [SPAWN]), ("a", [RETIRE, SPAWN]), ("b", [SPAWN, RETIRE]))
    async with cut(tmp_path, [Boxes()], history, cuts) as views:
        rows = await table_of(views, boxes)
        assert rows == [
            box("a", ["AgentSpawned"], 0.5, 1, 2),
            box("a", ["AgentSpawned"], 0.5, 3, 4),
            box("a", ["AgentSpawned"], 0.5, 4),
        ]
        assert views.states["boxes"].checksum == checksum(boxes, rows)


async def test_a_view_without_rows_has_the_checksum_of_nothing(tmp_path: Path) -> None:
    async with projected(tmp_path, [Boxes()], agents(("a", [SPAWN]), ("a", [RETIRE]))) as views:
        assert views.states["boxes"].checksum == CHECKSUM_ZERO


async def test_the_same_statement_reads_now_and_any_position(tmp_path: Path) -> None:
    history = agents(("a", [SPAWN]), ("a", [START]), ("a", [RETIRE]), ("a", [SPAWN]))
    async with projected(tmp_path, [Boxes()], history) as views:
        seen = {}
        for at in (0, 1, 2, 3, 4, None):
            async with views.reader(at=at, now_ms=NOW_MS) as reader:
                rows = await reader.rows(select(boxes.c.weight).where(true_at(boxes, reader.at)))
                seen[at] = ([row["weight"] for row in rows], reader.position, reader.now_ms)
    assert seen == {
        0: ([], 0, NOW_MS),
        1: ([0.5], 1, NOW_MS),
        2: ([1.0], 2, NOW_MS),
        3: ([], 3, NOW_MS),
        4: ([0.5], 4, NOW_MS),
        None: ([0.5], 4, NOW_MS),
    }


# Batches


EVENTS = st.sampled_from([SPAWN, START, STOP, DRAIN, RETIRE])
HISTORIES = st.lists(
    st.tuples(st.sampled_from("abc"), st.lists(EVENTS, min_size=1, max_size=3)), min_size=1, max_size=14
)
CUTS = st.lists(st.integers(0, 40), max_size=8)


@sampled(HISTORIES, CUTS)
def test_batches_cut_at_any_place_give_the_rows_and_the_checksum_of_the_fold(
    commits: list[tuple[str, list[Event]]], cuts: list[int]
) -> None:
    history = agents(*commits)
    for view in (Boxes(), Unkept()):
        rows = spans(view, history)
        assert written(view, history, cuts) == (rows, checksum(boxes, rows))


@settings(max_examples=25)
@sampled(STEPS, CUTS)
def test_the_views_of_the_program_are_the_same_however_a_fleets_history_is_cut(
    steps: list[tuple[str, int]], cuts: list[int]
) -> None:
    history = Simulation.after(steps).history
    for view in VIEWS:
        rows, sum_ = written(view, history, cuts)
        assert (rows, sum_) == written(view, history, [])
        assert sum_ == checksum(view.table, rows)
        if isinstance(view, RowView):
            assert rows == spans(view, history)


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_all_views_together_move_in_one_step_with_each_batch(tmp_path: Path, size: int) -> None:
    history = Simulation.after(
        (kind, n % 8) for n, kind in enumerate(["submit", "rest", "complete", "fail"] * 10)
    ).history
    async with cut(tmp_path, VIEWS, history, range(0, history.head, size)) as views:
        assert views.position == history.head > 20
        for view in VIEWS:
            rows, sum_ = written(view, history, [])
            statement = select(view.table).order_by(*view.table.primary_key.columns)
            assert await rows_of(views, statement) == rows
            assert views.states[view.name] == ViewState(view.version(), history.head, sum_)


async def test_commits_that_come_again_are_passed_over(tmp_path: Path) -> None:
    history = agents(("a", [SPAWN]), ("a", [START]), ("a", [STOP]))
    async with cut(tmp_path, [Boxes(), Timeline()], history, []) as views:
        before = (views.states, await table_of(views, boxes), await rows_of(views, select(timeline)))
        await views.apply(history.commits, 3)
        await views.apply(history.commits[1:], 3)
        assert (views.states, await table_of(views, boxes), await rows_of(views, select(timeline))) == before


async def test_positions_without_a_commit_for_anybody_still_move_the_checkpoint(tmp_path: Path) -> None:
    async with cut(tmp_path, [Boxes()], agents(("a", [SPAWN])), []) as views:
        await views.apply([], 7)
        assert views.position == 7


# Opening again


async def test_views_go_on_where_they_were_closed(tmp_path: Path) -> None:
    history = agents(("a", [SPAWN]), ("b", [SPAWN]), ("a", [START]), ("b", [RETIRE]))
    for position in range(1, 5):
        views = await SqlViews.open(place(tmp_path / "views.db"), [Boxes()])
        assert views.position == position - 1
        await views.apply(history.commits[position - 1 : position], position)
        await views.close()
    views = await SqlViews.open(place(tmp_path / "views.db"), [Boxes()])
    try:
        rows = await table_of(views, boxes)
        assert rows == spans(Boxes(), history)
        assert views.states["boxes"] == ViewState(Boxes.version(), 4, checksum(boxes, rows))
    finally:
        await views.close()


class Renewed(Boxes):
    """The same name, another fold."""

    @classmethod
    def version(cls) -> str:
        return "renewed"


async def test_a_view_of_another_version_begins_again_and_its_neighbours_go_on(tmp_path: Path) -> None:
    history = agents(("a", [SPAWN]), ("a", [START]))
    async with projected(tmp_path, [Boxes(), Timeline()], history) as views:
        kept = views.states["timeline"]
    views = await SqlViews.open(place(tmp_path / "views.db"), [Renewed(), Timeline()])
    try:
        assert views.states == {"boxes": ViewState("renewed", 0, CHECKSUM_ZERO), "timeline": kept}
        assert (views.position, await table_of(views, boxes)) == (0, [])
        await views.apply(history.commits, 2)
        assert await table_of(views, boxes) == spans(Boxes(), history)
        assert len(await rows_of(views, select(timeline))) == 2
    finally:
        await views.close()


async def test_a_view_that_the_program_no_longer_has_holds_nobody_up(tmp_path: Path) -> None:
    async with projected(tmp_path, [Boxes(), Timeline()], agents(("a", [SPAWN]))):
        pass
    views = await SqlViews.open(place(tmp_path / "views.db"), [Timeline()])
    try:
        await views.apply([], 9)
        assert views.position == 9
    finally:
        await views.close()


# Poison


@pytest.mark.parametrize("cuts", [[], [1], [2], [3], [1, 2, 3, 4, 5]], ids=str)
async def test_an_event_that_cannot_be_folded_parks_its_aggregate_for_that_view_and_nothing_else(
    tmp_path: Path, cuts: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    history = agents(("a", [SPAWN]), ("b", [SPAWN]), ("a", [START, POISON]), ("b", [START]), ("a", [STOP]))
    with caplog.at_level(logging.ERROR, "hivebus.views"):
        async with cut(tmp_path, [Boxes(), Timeline()], history, cuts) as views:
            rows = await table_of(views, boxes)
            assert rows == [
                box("a", ["AgentSpawned"], 0.5, 1),
                box("b", ["AgentSpawned"], 0.5, 2, 4),
                box("b", ["AgentSpawned", "AgentStarted"], 1.0, 4),
            ]
            assert views.states["boxes"] == ViewState(Boxes.version(), 5, checksum(boxes, rows))
            assert len(await rows_of(views, select(timeline))) == 6
            assert views.parked == 1
    assert [line.message for line in caplog.records] == [
        "View boxes cannot fold position 3; agent a is parked for it: ValueError: this box cannot be folded"
    ]


async def test_what_is_parked_stays_parked_after_a_restart_and_is_forgotten_with_its_view(tmp_path: Path) -> None:
    history = agents(("a", [SPAWN]), ("a", [POISON]), ("a", [START]))
    first = await SqlViews.open(place(tmp_path / "views.db"), [Boxes()])
    await first.apply(history.commits[:2], 2)
    await first.close()
    async with projected(tmp_path, [Boxes()], history) as again:
        assert again.parked == 1
        assert await table_of(again, boxes) == [box("a", ["AgentSpawned"], 0.5, 1)]
    renewed = await SqlViews.open(place(tmp_path / "views.db"), [Renewed()])
    assert renewed.parked == 0
    await renewed.close()
