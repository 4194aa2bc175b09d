"""Reads of one moment, and callers that go away in the middle of one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters.sql.engine import sqlite_engines
from tests.given import quiet

# Some 50 ms: longer than the loop turns that the test lets pass.
SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT max(i) FROM n"


async def test_a_caller_that_is_cancelled_in_the_middle_of_a_read_is_cancelled_and_nothing_else(tmp_path: Path) -> None:
    engines = sqlite_engines(tmp_path / "views.db", readers=1)
    begun = asyncio.Event()

    async def read(statement: str) -> int:
        async with engines.look() as connection:
            begun.set()
            return int((await connection.exec_driver_sql(statement)).scalar_one())

    try:
        reading = asyncio.create_task(read(SLOW))
        await begun.wait()
        await quiet(5)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await read("SELECT 7") == 7, "the connection is there for the next one"
    finally:
        await engines.close()
