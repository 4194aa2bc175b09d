"""hivebus verify: after one change anywhere it names the view, the row and the column, with both values."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from adapters.signing import FileSigner, Verifier
from adapters.sql.head_check import HeadCheck
from adapters.sql.store import SqlStore
from adapters.sql.verify import Checked, Difference, Report, verify
from adapters.sql.views import SqlViews
from core.kernel.errors import StartRefused
from core.kernel.merkle import Frontier, head_message, leaf_hash
from core.kernel.ports import SignedHead
from core.scheduling.election import ElectScheduler
from core.task import FailTask, TaskQueued
from projections.catalogue import VIEWS
from tests.given import (
    CODEC,
    NOW_MS,
    History,
    ManualClock,
    Simulation,
    assigned,
    recorded,
    registered,
    spawned,
    started,
)
from tests.given import submitted as submitted_

NAMES = tuple(view.name for view in VIEWS)
# Those that the history leaves a row in, and that do not lie beside it.
FILLED = ("task_specs", "tasks", "agents", "queue", "timeline")
HEAD = 7


def a_history() -> History:
    """Given an agent `a` (1-3), a task `t` that is assigned to it and fails (4-6), and another that waits (7)."""
    history = History()
    history.commit("host", "h", registered())
    history.commit("agent", "a", spawned())
    history.commit("agent", "a", started())
    history.commit("task", "t", submitted_(labels={"x": "y"}), TaskQueued())
    history.commit("task", "t", assigned())
    history.execute(FailTask(task_id="t", fence=5, outcome="failed", error="it broke", retry_after_ms=9))
    history.commit("task", "u", submitted_(timeout_s=2.5), TaskQueued())
    return history


async def made(root: Path, history: History) -> None:
    """Given the data directory of a program that has recorded and projected a history."""
    store = await SqlStore.open(root / "store.db")
    views = await SqlViews.open(root / "views.db", VIEWS)
    try:
        await recorded(store, history, ManualClock())
        await views.apply(history.commits, history.head)
    finally:
        await views.close()
        await store.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The two databases, as bytes: made once, changed in copies."""
    root = tmp_path_factory.mktemp("verify")
    asyncio.run(made(root, a_history()))
    return {name: (root / name).read_bytes() for name in ("store.db", "views.db")}


@pytest.fixture
def root(tmp_path: Path, template: dict[str, bytes]) -> Path:
    for name, content in template.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@contextmanager
def changing(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


def verified(root: Path, progress: Callable[[int, int], None] = lambda position, end: None) -> Report:
    return verify(root / "store.db", root / "views.db", VIEWS, CODEC, progress)


def test_what_was_folded_live_equals_what_is_folded_again(root: Path) -> None:
    heard: list[tuple[int, int]] = []
    report = verify(
        root / "store.db", root / "views.db", VIEWS, CODEC, lambda position, end: heard.append((position, end))
    )
    counted = {"task_specs": 2, "tasks": 4, "agents": 4, "queue": 4, "attempts": 1, "timeline": 10}
    rows = dict.fromkeys(NAMES, 0) | counted
    assert report == Report(True, HEAD, [Checked(name, rows[name], True) for name in NAMES], None)
    assert heard == [(HEAD, HEAD)]


CELLS: list[tuple[str, str, str, Any, Any, Any]] = [
    # view, row, column, stored as, read as, was
    ("tasks", "t@5", "status", "queued", "queued", "assigned"),
    ("tasks", "t@5", "attempt", 7, 7, 1),
    ("tasks", "t@5", "assigned_ms", NOW_MS - 1, NOW_MS - 1, NOW_MS),
    ("tasks", "t@5", "assigned_ms", None, None, NOW_MS),
    ("tasks", "t@5", "started_ms", NOW_MS, NOW_MS, None),
    ("tasks", "t@5", "progress", 0.25, 0.25, None),
    ("tasks", "t@5", "cancelling", 1, True, False),
    ("tasks", "t@5", "result", '{"n":1}', {"n": 1}, None),
    ("tasks", "t@4", "attempts", "[1]", [1], []),
    ("tasks", "t@5", "valid_to", 5, 5, 6),
    ("task_specs", "u@7", "timeout_s", 2.25, 2.25, 2.5),
    ("task_specs", "t@4", "labels", '{"x":"z"}', {"x": "z"}, {"x": "y"}),
    ("task_specs", "t@4", "actor", "eve", "eve", "ada"),
    ("agents", "a@5", "running", "[]", [], ["t"]),
    ("agents", "a@5", "slots", 2, 2, 1),
    ("queue", "u@7", "since_ms", NOW_MS + 1, NOW_MS + 1, NOW_MS),
    ("timeline", "4/1", "type", "task.cancelled", "task.cancelled", "task.queued"),
    ("timeline", "4/1", "time_ms", 0, 0, NOW_MS),
]


@pytest.mark.parametrize(
    ("view", "key", "column", "stored", "read", "was"), CELLS, ids=[f"{c[0]}.{c[2]}" for c in CELLS]
)
def test_one_changed_cell_is_named_with_both_values(
    root: Path, view: str, key: str, column: str, stored: Any, read: Any, was: Any
) -> None:
    where = 'position = ? AND "index" = ?' if view == "timeline" else "id = ? AND valid_from = ?"
    parts = key.split("/" if view == "timeline" else "@")
    with changing(root / "views.db") as connection:
        changed = connection.execute(f'UPDATE {view} SET "{column}" = ? WHERE {where}', [stored, *parts])
        assert changed.rowcount == 1
    report = verified(root)
    assert (report.equal, report.position) == (False, HEAD)
    assert report.difference == Difference(view, key, column, read, was)
    assert [checked.name for checked in report.views if not checked.equal] == [view]


@pytest.mark.parametrize("view", FILLED)
def test_a_missing_row_and_one_too_many_are_named(root: Path, view: str) -> None:
    key = "4/1" if view == "timeline" else "u@7" if view != "agents" else "a@5"
    columns = ("position", '"index"') if view == "timeline" else ("id", "valid_from")
    parts = key.split("/" if view == "timeline" else "@")
    with changing(root / "views.db") as connection:
        where = f"{view} WHERE {columns[0]} = ? AND {columns[1]} = ?"
        connection.execute(f"CREATE TEMP TABLE kept AS SELECT * FROM {where}", parts)
        connection.execute(f"DELETE FROM {where}", parts)
        connection.commit()
        assert verified(root).difference == Difference(view, key, "(row)", "absent", "present")
        connection.execute(f"UPDATE kept SET {columns[1]} = 99")
        connection.execute(f"INSERT INTO {view} SELECT * FROM kept")
        connection.execute(f"UPDATE kept SET {columns[1]} = ?", parts[1:])
        connection.execute(f"INSERT INTO {view} SELECT * FROM kept")
    extra = f"{parts[0]}/99" if view == "timeline" else f"{parts[0]}@99"
    assert verified(root).difference == Difference(view, extra, "(row)", "present", "absent")


@pytest.mark.parametrize("view", FILLED)
def test_a_changed_checksum_is_named(root: Path, view: str) -> None:
    with changing(root / "views.db") as connection:
        (checksum,) = connection.execute("SELECT checksum FROM view_state WHERE name = ?", [view]).fetchone()
        connection.execute("UPDATE view_state SET checksum = ? WHERE name = ?", [bytes(16), view])
    assert verified(root).difference == Difference(view, "(all)", "checksum", bytes(16).hex(), checksum.hex())


def test_the_first_difference_is_told_and_every_view_is_checked(root: Path) -> None:
    with changing(root / "views.db") as connection:
        connection.execute("UPDATE queue SET priority = 1 WHERE id = 'u'")
        connection.execute("UPDATE agents SET name = 'eve' WHERE valid_from = 2")
    report = verified(root)
    assert report.difference == Difference("agents", "a@2", "name", "eve", "shelly")
    assert [(checked.name, checked.equal) for checked in report.views] == [
        ("task_specs", True),
        ("tasks", True),
        ("task_inputs", True),
        ("agents", False),
        ("queue", False),
        *((name, True) for name in ("limits", "budgets", "schedules", "pauses", "alerts", "attempts")),
        ("timeline", True),
    ]


# The store


def test_a_changed_body_in_the_store_is_found_by_its_leaf(root: Path) -> None:
    with changing(root / "store.db") as connection:
        body, leaf = connection.execute("SELECT body, leaf FROM commits WHERE position = 4").fetchone()
        forged = body.replace(b"greet", b"Greet")
        connection.execute("UPDATE commits SET body = ? WHERE position = 4", [forged])
    computed = leaf_hash(4, "hive.log.task.t", forged)
    assert verified(root) == Report(False, HEAD, [], Difference("store", "4", "leaf", leaf.hex(), computed.hex()))


def test_a_body_changed_together_with_its_leaf_is_found_by_the_frontier(root: Path) -> None:
    with changing(root / "store.db") as connection:
        (body,) = connection.execute("SELECT body FROM commits WHERE position = 4").fetchone()
        forged = body.replace(b"greet", b"Greet")
        leaf = leaf_hash(4, "hive.log.task.t", forged)
        connection.execute("UPDATE commits SET body = ?, leaf = ? WHERE position = 4", [forged, leaf])
    difference = verified(root).difference
    assert difference is not None
    assert (difference.view, difference.key, difference.column) == ("store", str(HEAD), "frontier")


@pytest.mark.parametrize(("position", "found"), [(4, 5), (HEAD, None)])
def test_a_hole_in_the_store_is_named(root: Path, position: int, found: int | None) -> None:
    with changing(root / "store.db") as connection:
        connection.execute("DELETE FROM commits WHERE position = ?", [position])
    assert verified(root).difference == Difference("store", str(position), "position", found, position)


def test_a_store_that_is_ahead_of_its_views_is_compared_up_to_where_they_stand(tmp_path: Path) -> None:
    async def half() -> None:
        history = a_history()
        await made(tmp_path, history)
        for _ in range(3):
            history.execute(ElectScheduler(scheduler_id="main", leader="l"))
        (tmp_path / "store.db").unlink()
        store = await SqlStore.open(tmp_path / "store.db")
        await recorded(store, history, ManualClock())
        await store.close()

    asyncio.run(half())
    report = verified(tmp_path)
    assert (report.equal, report.position, report.difference) == (True, HEAD, None)


def test_a_directory_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartRefused):
        verified(tmp_path)


def test_verifying_changes_nothing(root: Path) -> None:
    before = {path.name: path.read_bytes() for path in root.glob("*.db")}
    verified(root)
    assert {path.name: path.read_bytes() for path in root.glob("*.db")} == before


# Replay equals live


@pytest.mark.parametrize("seed", range(3))
def test_the_long_life_of_a_fleet_folds_again_to_the_same_rows(tmp_path: Path, seed: int) -> None:
    kinds = ("submit", "rest", "start", "complete", "fail", "register", "spawn", "cancel", "retire", "lose", "clock")
    simulation = Simulation.after((kinds[(n * 7 + seed * n * n) % len(kinds)], n % 8) for n in range(300))
    simulation.end_well()
    history = simulation.history
    history.commit("task", "big", submitted_(parameters={"n": 2**70}), TaskQueued())
    assert history.head > 100
    asyncio.run(made(tmp_path, history))
    assert verified(tmp_path).difference is None


# --- signed heads -----------------------------------------------------------------------------------------------------


async def signed(root: Path, *sizes: int, signer: FileSigner | None = None) -> None:
    """Given heads of these sizes, signed by the directory's key."""
    signer = signer or FileSigner.open(root)
    store = await SqlStore.open(root / "store.db")
    try:
        frontier = Frontier()
        for stored in await store.read(after=0, limit=100):
            frontier.append(leaf_hash(stored.entry.position, stored.entry.subject, stored.entry.body))
            if frontier.size in sizes:
                message = head_message(frontier.size, frontier.root(), 77)
                head = SignedHead(frontier.size, frontier.root(), 77, signer.sign(message), signer.key_id)
                await store.care.add_head(head)
    finally:
        await store.close()


def head_checked(root: Path) -> Report:
    return verify(root / "store.db", root / "views.db", VIEWS, CODEC, lambda *_: None, Verifier.open(root))


async def test_every_signed_head_is_held_against_the_tree(root: Path) -> None:
    await signed(root, 1, 4, 7)
    report = await asyncio.to_thread(head_checked, root)
    assert (report.equal, report.heads) == (True, 3)


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ("root = zeroblob(32)", "root"),
        ("signed_ms = 78", "signature"),
        ("signature = zeroblob(64)", "signature"),
        ("key_id = 'ffffffffffffffff'", "key_id"),
    ],
)
async def test_a_forged_head_is_named(root: Path, change: str, column: str) -> None:
    await signed(root, 1, 4, 7)
    with closing(sqlite3.connect(root / "store.db")) as store:
        store.execute(f"UPDATE heads SET {change} WHERE size = 4")
        store.commit()
    report = await asyncio.to_thread(head_checked, root)
    assert report.difference is not None
    assert (report.equal, report.difference.view, report.difference.key) == (False, "heads", "4")
    assert report.difference.column == column


async def test_a_store_that_is_shorter_than_its_signed_head_was_cut(root: Path) -> None:
    await signed(root, 7)
    with closing(sqlite3.connect(root / "store.db")) as store:
        store.execute("UPDATE heads SET size = 8")
        store.commit()
    report = await asyncio.to_thread(head_checked, root)
    assert report.difference == Difference("heads", "8", "size", 8, 7)


async def test_a_head_of_another_key_does_not_pass(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    await signed(root, 7, signer=FileSigner.open(tmp_path / "other"))
    FileSigner.open(root)
    report = await asyncio.to_thread(head_checked, root)
    assert report.difference is not None
    assert report.difference.column == "key_id"


def test_the_signing_key_is_kept_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    first = FileSigner.open(tmp_path)
    assert FileSigner.open(tmp_path).key_id == first.key_id
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600


def test_a_signing_key_that_is_none_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "signing.key").write_text("no key")
    with pytest.raises(StartRefused):
        FileSigner.open(tmp_path)


async def test_in_a_shared_database_heads_of_other_machines_are_counted_and_only_their_roots_are_checked(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    await signed(root, 4)
    await signed(root, 7, signer=FileSigner.open(tmp_path / "other"))
    engine = create_engine(f"sqlite:///{root / 'store.db'}")
    frontier = Frontier()
    with engine.connect() as connection, closing(sqlite3.connect(root / "store.db")) as store:
        heads = HeadCheck(connection, Verifier.open(root), alone=False)
        for (leaf,) in store.execute("SELECT leaf FROM commits ORDER BY position"):
            frontier.append(leaf)
            assert heads.at(frontier) is None
        assert (heads.checked, heads.unchecked) == (1, 1)
    engine.dispose()
