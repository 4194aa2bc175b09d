import pytest

from adapters.memory.care import MemoryCare
from adapters.memory.store import MemoryStore
from tests.contracts.care_store import CareStoreContract, Kept
from tests.contracts.store import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestMemoryCare(CareStoreContract):
    @pytest.fixture
    def kept(self) -> Kept:
        store = MemoryStore()
        return store, MemoryCare(store)
