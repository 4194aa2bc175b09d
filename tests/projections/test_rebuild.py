"""Views that are folded anew equal those that were folded live, and nobody sees them before they are complete."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from adapters.sql import pages
from adapters.sql import rebuild as module
from adapters.sql.rebuild import Rebuilt, Stopped, rebuild, roll_back, stale
from adapters.sql.store import SqlStore
from adapters.sql.views import SqlViews
from core.kernel.commit import Commit, Event
from core.kernel.errors import StartRefused
from core.projection import Row, View
from core.task import TaskQueued
from projections.catalogue import VIEWS
from projections.timeline import Timeline
from tests.given import CODEC, History, ManualClock, Simulation, assigned, recorded, submitted
from tests.projections.test_row_versions import POISON, SPAWN, START, STOP, Boxes, Renewed, agents
from tests.projections.test_verify import NAMES, a_history, changing, made, verified

KINDS = ("submit", "rest", "start", "complete", "fail", "register", "spawn", "cancel", "retire", "lose", "clock")


def a_long_history(seed: int) -> History:
    simulation = Simulation.after((KINDS[(n * 7 + seed * n * n) % len(KINDS)], n % 8) for n in range(300))
    simulation.end_well()
    return simulation.history


async def projected(root: Path, history: History, views: Sequence[View], up_to: int | None = None) -> None:
    """Given the store of a history, and these views of it, folded live."""
    store = await SqlStore.open(root / "store.db")
    await recorded(store, history, ManualClock())
    await store.close()
    opened = await SqlViews.open(root / "views.db", views)
    head = history.head if up_to is None else up_to
    for commit in history.commits[:head]:
        await opened.apply([commit], commit.position)
    await opened.close()


def again(root: Path, views: Sequence[View] = VIEWS, names: Sequence[str] | None = None, **more: Any) -> Rebuilt:
    chosen = [view.name for view in views] if names is None else names
    return rebuild(root, views, CODEC, chosen, progress=more.pop("progress", lambda position, end: None), **more)


def content(path: Path) -> dict[str, tuple[str, list[Any]]]:
    """Every table and index of a database, and every row."""
    with closing(sqlite3.connect(path)) as connection:
        made_of = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
        return {
            name: (sql, sorted(connection.execute(f'SELECT * FROM "{name}"'), key=repr) if type_ == "table" else [])
            for type_, name, sql in made_of
        }


def left(root: Path) -> set[str]:
    return {path.name for path in root.glob("views.db*")}


# Equal to live


@pytest.mark.parametrize("unsettled", [0, 20_000, 1 << 30], ids=["each page", "now and then", "at the end"])
@pytest.mark.parametrize("seed", range(2))
def test_what_is_folded_anew_has_the_rows_the_indexes_and_the_checksums_of_the_live_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, unsettled: int
) -> None:
    history = a_long_history(seed)
    asyncio.run(projected(tmp_path, history, VIEWS))
    live = content(tmp_path / "views.db")
    monkeypatch.setattr(pages, "PAGE_COMMITS_MAX", 17)
    monkeypatch.setattr(module, "UNSETTLED_BYTES_MAX", unsettled)
    monkeypatch.setattr("projections.tasks.Tasks.rows_kept", 2)
    heard: list[tuple[int, int]] = []
    done = again(tmp_path, progress=lambda position, end: heard.append((position, end)))
    assert content(tmp_path / "views.db") == live
    assert [(view.name, view.same, view.live) for view in done.views] == [(name, True, False) for name in NAMES]
    assert {view.name: view.rows for view in done.views} == {name: len(live[name][1]) for name in NAMES}
    assert heard == [(n, history.head) for n in (*range(17, history.head, 17), history.head)]
    assert verified(tmp_path).difference is None


def test_views_that_stood_behind_the_store_are_compared_where_they_stood(tmp_path: Path) -> None:
    history = a_long_history(3)
    asyncio.run(projected(tmp_path, history, VIEWS, up_to=40))
    assert {view.same for view in again(tmp_path, names=["tasks", "timeline"]).views} == {True}
    done = again(tmp_path)
    assert done.position == history.head > 40
    assert {view.same for view in done.views} == {True}
    report = verified(tmp_path)
    assert (report.position, report.difference) == (history.head, None)


def test_views_that_were_not_what_the_store_makes_them_are_told_and_mended(tmp_path: Path) -> None:
    asyncio.run(made(tmp_path, a_history()))
    with changing(tmp_path / "views.db") as connection:
        connection.execute("UPDATE tasks SET status = 'lost' WHERE valid_from = 5")
        connection.execute("UPDATE view_state SET checksum = zeroblob(16) WHERE name = 'tasks'")
    done = again(tmp_path)
    assert {view.name: view.same for view in done.views} == {name: name != "tasks" for name in NAMES}
    assert verified(tmp_path).difference is None


def test_live_goes_on_where_a_rebuild_ended(tmp_path: Path) -> None:
    history = a_history()
    asyncio.run(made(tmp_path, history))
    again(tmp_path)
    history.commit("task", "u", assigned())
    (tmp_path / "store.db").unlink()
    asyncio.run(made(tmp_path, history))
    report = verified(tmp_path)
    assert (report.position, report.difference) == (8, None)


# Poison


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_what_cannot_be_folded_is_parked_as_live_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    history = agents(("a", [SPAWN]), ("b", [SPAWN]), ("a", [START, POISON]), ("b", [START]), ("a", [STOP]))
    views = (Boxes(), Timeline())
    asyncio.run(projected(tmp_path, history, views))
    live = content(tmp_path / "views.db")
    assert len(live["view_parked"][1]) == 1
    monkeypatch.setattr(pages, "PAGE_COMMITS_MAX", page)
    done = again(tmp_path, views)
    assert [(view.name, view.same, view.live) for view in done.views] == [
        ("boxes", True, True),
        ("timeline", True, False),
    ]
    assert content(tmp_path / "views.db") == live


class Mended(Boxes):
    """A fold that takes what the other could not."""

    @classmethod
    def version(cls) -> str:
        return "mended"

    def fold(self, row: Row | None, commit: Commit, event: Event) -> Row | None:
        return row if event == POISON else super().fold(row, commit, event)


def test_what_was_parked_is_folded_once_the_view_can(tmp_path: Path) -> None:
    history = agents(("a", [SPAWN]), ("a", [POISON]), ("a", [STOP]))
    asyncio.run(projected(tmp_path, history, (Boxes(), Timeline())))
    again(tmp_path, (Mended(), Timeline()), ["boxes"])
    after = content(tmp_path / "views.db")
    assert after["view_parked"][1] == []
    assert len(after["boxes"][1]) == 2


def test_a_value_that_the_database_refuses_is_parked_as_live_does_it(tmp_path: Path) -> None:
    history = History(folding=False)
    history.commit("task", "t", submitted(), TaskQueued())
    history.commit("task", "u", submitted(priority=1 << 70), TaskQueued())
    history.commit("task", "t", assigned())
    asyncio.run(projected(tmp_path, history, VIEWS))
    live = content(tmp_path / "views.db")
    assert live["view_parked"][1]
    again(tmp_path)
    assert content(tmp_path / "views.db") == live


# Some of them


def test_one_view_of_another_version_is_rebuilt_and_the_others_keep_their_rows(tmp_path: Path) -> None:
    history = agents(("a", [SPAWN]), ("a", [START]), ("b", [SPAWN]))
    asyncio.run(projected(tmp_path, history, (Boxes(), Timeline())))
    with changing(tmp_path / "views.db") as connection:
        connection.execute("UPDATE timeline SET actor = 'a mark' WHERE position = 2")
        connection.execute("UPDATE boxes SET weight = 99")
    views = (Renewed(), Timeline())
    assert stale(tmp_path, views) == ["boxes"]
    done = again(tmp_path, views, stale(tmp_path, views))
    assert [(view.name, view.same) for view in done.views] == [("boxes", None)]
    after = content(tmp_path / "views.db")
    assert "a mark" in repr(after["timeline"])
    assert "99" not in repr(after["boxes"])
    assert {row[:3] for row in after["view_state"][1]} == {
        ("boxes", "renewed", 3),
        ("timeline", Timeline.version(), 3),
    }
    assert stale(tmp_path, views) == []


def test_what_is_missing_is_stale(tmp_path: Path) -> None:
    assert stale(tmp_path, VIEWS) == list(NAMES)
    asyncio.run(made(tmp_path, a_history()))
    assert stale(tmp_path, VIEWS) == []
    with changing(tmp_path / "views.db") as connection:
        connection.execute("DROP TABLE queue")
        connection.execute("DELETE FROM view_state WHERE name = 'agents'")
    assert stale(tmp_path, VIEWS) == ["agents", "queue"]
    again(tmp_path, names=["agents", "queue"])
    assert verified(tmp_path).difference is None


def test_a_file_that_is_no_database_is_replaced_when_all_views_are_rebuilt(tmp_path: Path) -> None:
    asyncio.run(made(tmp_path, a_history()))
    (tmp_path / "views.db").write_bytes(b"this is no database " * 1000)
    with pytest.raises(StartRefused, match="cannot be copied"):
        again(tmp_path, names=["tasks"])
    assert {view.same for view in again(tmp_path).views} == {None}
    assert verified(tmp_path).difference is None


# Changing over


def test_the_old_views_are_kept_until_the_next_rebuild_and_can_be_taken_back(tmp_path: Path) -> None:
    asyncio.run(made(tmp_path, a_history()))
    with changing(tmp_path / "views.db") as connection:
        connection.execute("UPDATE tasks SET status = 'a mark'")
    assert again(tmp_path).kept
    assert left(tmp_path) == {"views.db", "views.db.old"}
    roll_back(tmp_path)
    assert "a mark" in repr(content(tmp_path / "views.db"))
    assert "a mark" not in repr(content(tmp_path / "views.db.old"))
    roll_back(tmp_path)
    again(tmp_path)
    assert "a mark" not in repr(content(tmp_path / "views.db.old"))


def test_there_is_nothing_to_take_back_before_the_first_rebuild(tmp_path: Path) -> None:
    asyncio.run(made(tmp_path, a_history()))
    with pytest.raises(StartRefused, match="no older views"):
        roll_back(tmp_path)
    (tmp_path / "views.db").unlink()
    assert not again(tmp_path).kept


def test_views_that_somebody_reads_are_not_changed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.sql.files.BUSY_TIMEOUT_S", 0.01)
    asyncio.run(made(tmp_path, a_history()))
    with closing(sqlite3.connect(tmp_path / "views.db", isolation_level=None)) as reader:
        reader.execute("PRAGMA journal_mode=WAL")
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM tasks").fetchone() == (4,)
        with pytest.raises(StartRefused, match="Somebody else reads"):
            again(tmp_path)
        assert reader.execute("SELECT count(*) FROM tasks").fetchone() == (4,)
    assert verified(tmp_path).difference is None


def test_a_rebuild_that_is_asked_to_stop_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(made(tmp_path, a_history()))
    before = (tmp_path / "views.db").read_bytes()
    monkeypatch.setattr(pages, "PAGE_COMMITS_MAX", 2)
    heard: list[int] = []
    with pytest.raises(Stopped):
        again(tmp_path, progress=lambda position, end: heard.append(position), halted=lambda: len(heard) == 2)
    assert heard == [2, 4]
    assert left(tmp_path) == {"views.db"}
    assert (tmp_path / "views.db").read_bytes() == before


KILLED = """
import os, signal, sys
from pathlib import Path
from adapters.sql import files, pages, rebuild as module
from projections.catalogue import VIEWS
from tests.given import CODEC
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
where = sys.argv[2]
if where == "before the old ones are kept":
    files._close = die
elif where == "before the new ones are live":
    second_name = files._second_name
    files._second_name = lambda path, name: (second_name(path, name), die())
pages.PAGE_COMMITS_MAX = 2
progress = die if where == "between pages" else lambda position, end: None
module.rebuild(Path(sys.argv[1]), VIEWS, CODEC, [view.name for view in VIEWS], progress=progress)
"""


@pytest.mark.parametrize(
    "where", ["between pages", "before the old ones are kept", "before the new ones are live", "after it"]
)
def test_whenever_it_is_killed_there_are_whole_views_and_the_next_one_succeeds(tmp_path: Path, where: str) -> None:
    asyncio.run(made(tmp_path, a_history()))
    with changing(tmp_path / "views.db") as connection:
        connection.execute("UPDATE tasks SET status = 'a mark'")
    old = content(tmp_path / "views.db")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), where], check=False, timeout=30)
    if where == "after it":
        assert done.returncode == 0
        assert "a mark" not in repr(content(tmp_path / "views.db"))
    else:
        assert done.returncode == -signal.SIGKILL
        assert content(tmp_path / "views.db") == old
    again(tmp_path)
    assert left(tmp_path) == {"views.db", "views.db.old"}
    assert verified(tmp_path).difference is None


def test_a_directory_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="no store"):
        again(tmp_path)
    assert left(tmp_path) == set()
