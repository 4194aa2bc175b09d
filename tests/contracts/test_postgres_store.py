from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.sql.store import SqlStore
from tests.contracts.care_store import CareStoreContract, Kept
from tests.contracts.store import StoreContract
from tests.places import schema_for
from tests.postgres import PostgresCluster

pytestmark = pytest.mark.peers


class TestPostgresStore(StoreContract):
    @pytest.fixture
    async def store(self, postgres: PostgresCluster, tmp_path: Path) -> AsyncIterator[SqlStore]:
        store = await SqlStore.open(schema_for(postgres.url, tmp_path))
        yield store
        await store.close()


class TestPostgresCare(CareStoreContract):
    @pytest.fixture
    async def kept(self, postgres: PostgresCluster, tmp_path: Path) -> AsyncIterator[Kept]:
        store = await SqlStore.open(schema_for(postgres.url, tmp_path))
        yield store, store.care
        await store.close()
