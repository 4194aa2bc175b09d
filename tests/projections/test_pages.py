"""A page of the store read in bulk gives what its commits give one by one."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from adapters.sql import pages as module
from adapters.sql.files import opened
from adapters.sql.pages import read_page
from adapters.sql.store import SqlStore
from core.kernel.commit import Commit
from tests.given import CODEC, ManualClock, recorded
from tests.projections.test_rebuild import a_long_history

BROKEN = b'{"no": "commit"}'
TWO = b'{"no": "commit"},{"and": "another"}'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    async def make() -> None:
        store = await SqlStore.open(tmp_path / "store.db")
        await recorded(store, a_long_history(0), ManualClock())
        await store.close()

    asyncio.run(make())
    return tmp_path


def change(root: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(root / "store.db")) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def pages_of(root: Path, end: int) -> list[Commit]:
    commits: list[Commit] = []
    with opened(root / "store.db", ()) as engine, engine.connect() as connection:
        after = 0
        while after < end:
            page = read_page(connection, CODEC, after, end)
            assert after < page.position <= end
            commits += page.commits
            after = page.position
    return commits


def said(commits: Sequence[Commit]) -> list[tuple[object, ...]]:
    return [(c.position, c.noun, c.aggregate_id, c.events, c.body.actor, c.body.occurred_at) for c in commits]


@pytest.mark.parametrize("page", [1, 7, 500])
def test_a_page_holds_its_commits_in_order_with_their_events(
    root: Path, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(module, "PAGE_COMMITS_MAX", page)
    history = a_long_history(0)
    assert said(pages_of(root, history.head)) == said(history.commits)
    assert said(pages_of(root, 10)) == said(history.commits[:10])


def test_what_is_parked_is_left_out_wherever_it_stands(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_COMMITS_MAX", 2)
    for position in (3, 4, 10):
        change(root, "UPDATE commits SET parked = 'undecodable', body = x'00ff' WHERE position = ?", position)
    assert [commit.position for commit in pages_of(root, 10)] == [1, 2, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("body", [BROKEN, TWO, b"\xff\x00"])
def test_a_body_that_does_not_decode_is_named_and_the_rest_of_its_page_is_there(
    root: Path, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    change(root, "UPDATE commits SET body = ? WHERE position = 4", body)
    with caplog.at_level(logging.WARNING, "hivebus.rebuild"):
        assert [commit.position for commit in pages_of(root, 6)] == [1, 2, 3, 5, 6]
    assert [record.message.partition(":")[0] for record in caplog.records] == ["Position 4"]


def test_an_event_of_a_newer_program_is_kept_unknown(root: Path) -> None:
    change(
        root, "UPDATE commits SET body = replace(CAST(body AS TEXT), '\"schema\":1', '\"schema\":7') WHERE position = 2"
    )
    commits = pages_of(root, 3)
    assert [type(event).__name__ for event in commits[1].events] == ["UnknownEvent"] * len(commits[1].events)
