import pytest

from adapters.memory.hosts import LocalControl, LocalGateway
from core.services.agent_host import AgentHost
from tests.contracts.link import HOST, Bench, Link, LinkContract


class TestMemoryLink(LinkContract):
    @pytest.fixture
    def link(self) -> Link:
        bench, gateway = Bench(), LocalGateway()

        async def join(host: AgentHost) -> None:
            gateway.add(host)

        return Link(bench, LocalControl(bench.door, bench.beat, HOST), gateway, join)
