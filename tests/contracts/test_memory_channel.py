import pytest

from adapters.memory.channel import MemoryChannel
from tests.contracts.channel import ChannelContract


class TestMemoryChannel(ChannelContract):
    @pytest.fixture
    def channel(self) -> MemoryChannel:
        return MemoryChannel()

    @pytest.fixture
    def other(self, channel: MemoryChannel) -> MemoryChannel:
        return channel
