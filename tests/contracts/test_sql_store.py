from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.sql.store import SqlStore
from tests.contracts.care_store import CareStoreContract, Kept
from tests.contracts.store import StoreContract


class TestSqlStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SqlStore]:
        store = await SqlStore.open(tmp_path / "store.db")
        yield store
        await store.close()


class TestSqlCare(CareStoreContract):
    @pytest.fixture
    async def kept(self, tmp_path: Path) -> AsyncIterator[Kept]:
        store = await SqlStore.open(tmp_path / "store.db")
        yield store, store.care
        await store.close()
