"""What the scheduler decided and has not yet read back from the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from typing import NamedTuple

from core.scheduling.fleet import Fleet


class Pending(NamedTuple):
    """A decision on its way. `settled_at` is the position from which the fold speaks for itself."""

    agent_id: str
    host_id: str
    settled_at: int | None


class Overlay:
    """Slots that are spoken for. An unknown outcome keeps its slot until the fold has passed the log's head."""

    def __init__(self) -> None:
        self._pending: dict[str, Pending] = {}
        self.by_agent: Counter[str] = Counter()
        self.by_host: Counter[str] = Counter()

    def __contains__(self, key: str) -> bool:
        return key in self._pending

    def keys(self) -> Set[str]:
        """What is under way, by key."""
        return self._pending.keys()

    def __len__(self) -> int:
        return len(self._pending)

    def hold(self, key: str, agent_id: str = "", host_id: str = "") -> None:
        """A command about `key` is under way; it takes a slot if it names an agent. A key is held once at a time."""
        assert key not in self._pending, f"a command about {key} is under way already"
        self._pending[key] = Pending(agent_id, host_id, None)
        if agent_id:
            self.by_agent[agent_id] += 1
            self.by_host[host_id] += 1

    def settle(self, key: str, position: int) -> None:
        """The outcome stands at this position: drop the entry once the fold is there."""
        self._pending[key] = self._pending[key]._replace(settled_at=position)

    def drop(self, key: str) -> None:
        """The command was refused: nothing of it will be on the log."""
        pending = self._pending.pop(key, None)
        if pending is not None and pending.agent_id:
            self.by_agent[pending.agent_id] -= 1
            self.by_host[pending.host_id] -= 1

    def sweep(self, fleet: Fleet) -> None:
        """Drop what the fold has reached, and let its task stand where the fold says."""
        reached = [
            key
            for key, pending in self._pending.items()
            if pending.settled_at is not None and pending.settled_at <= fleet.position
        ]
        for key in reached:
            self.drop(key)
            fleet.put_back(key)
