"""What a log must show of a scheduler, counted by a reader of its own that knows nothing of the fleet's fold."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from core.agent import AgentSpawned
from core.host import HostRegistered
from core.kernel.commit import Commit
from core.kernel.outcomes import CommandUnchanged
from core.limit import LimitChanged
from core.scheduling.election import SchedulerElected
from core.task import (
    AttemptEnded,
    TaskAsked,
    TaskAssigned,
    TaskCancelled,
    TaskCompleted,
    TaskExpired,
    TaskFailed,
    TaskStarted,
    TaskSubmitted,
)

ENDS = (TaskCompleted, TaskFailed, TaskCancelled, TaskExpired)
# What a sum of floats may be off by, in tokens.
NOTHING = 1e-6


class Held(NamedTuple):
    """An attempt that nothing has ended: where it is, and whether an older term had assigned it."""

    fence: int
    agent_id: str
    host_id: str
    void: bool


class Start(NamedTuple):
    """A start that takes a token of a rate."""

    position: int
    seen: int
    time_ms: int


class Audit:
    """Reads a log from its start. `seen`: for a position the one that its scheduler had folded when it decided it."""

    def __init__(self, seen: Mapping[int, int], set_back: Sequence[int]) -> None:
        """`set_back`: after which positions the clock was set back."""
        self.checked: Counter[str] = Counter()
        self._seen = seen
        self._set_back = set_back
        self._term = 0
        self._specs: dict[str, TaskSubmitted] = {}
        self._ended: set[str] = set()
        self._held: dict[str, Held] = {}
        self._slots: dict[str, int] = {}
        self._limits: dict[str, list[tuple[int, LimitChanged]]] = {}
        self._starts: dict[str, list[Start]] = {}

    def read(self, commits: Sequence[Commit]) -> Counter[str]:
        """Raises AssertionError where the log shows what must not be; how often each was looked at."""
        for commit in commits:
            for event in commit.events:
                match event:
                    case CommandUnchanged():
                        pass
                    case SchedulerElected():
                        self._term = commit.position
                    case AgentSpawned() | HostRegistered():
                        self._slots[commit.aggregate_id] = event.slots
                    case LimitChanged():
                        self._limits.setdefault(event.key, []).append((commit.position, event))
                    case _ if commit.noun == "task":
                        self._task(commit, event)
        return self.checked

    def _task(self, commit: Commit, event: Any) -> None:
        id_ = commit.aggregate_id
        assert id_ not in self._ended, f"{id_} has ended, and {event} follows at {commit.position}"
        match event:
            case TaskSubmitted():
                self._specs[id_] = event
            case TaskAssigned():
                self._assigned(commit, event)
            case TaskStarted() | AttemptEnded() | TaskCompleted() | TaskAsked():
                held = self._held.get(id_)
                assert held is not None, f"{event}, and nothing holds {id_}"
                assert held.fence == event.fence, f"{event} is of another attempt"
                self.checked["reports by who holds the task"] += 1
                if not isinstance(event, TaskStarted):
                    del self._held[id_]
        if isinstance(event, ENDS):
            assert id_ not in self._held, f"{id_} has ended and an attempt holds it"
            self._ended.add(id_)
            self.checked["ends, one for each task"] += 1

    def _assigned(self, commit: Commit, event: TaskAssigned) -> None:
        id_ = commit.aggregate_id
        assert id_ not in self._held, f"{id_} is in two places from {commit.position} on"
        self.checked["assignments, one place at a time"] += 1
        held = Held(commit.position, event.agent_id, event.host_id, event.term < self._term)
        self._held[id_] = held
        if held.void:
            self.checked["void assignments of a deposed scheduler"] += 1
            return
        live = [(other, self._specs[other_id]) for other_id, other in self._held.items() if not other.void]
        for place, of in ((event.agent_id, 1), (event.host_id, 2)):
            taken = sum(other[of] == place for other, _ in live)
            assert taken <= self._slots[place], f"{taken} attempts on {place} at {commit.position}"
            self.checked["slots of an agent or a host"] += 1
        seen = self._seen[commit.position]
        key = self._specs[id_].concurrency_key
        if key is not None:
            running = sum(spec.concurrency_key == key for _, spec in live)
            allowed = max(
                1 if limit is None or limit.concurrency is None else limit.concurrency
                for limit in self._in_force(key, seen, commit.position)
            )
            assert running <= allowed, f"{running} run with {key} at {commit.position}, {allowed} may"
            self.checked["limits of concurrency"] += 1
        key = self._specs[id_].rate_key
        if key is not None:
            self._rate(key, Start(commit.position, seen, commit.body.occurred_at))

    def _in_force(self, key: str, since: int, until: int) -> list[LimitChanged | None]:
        """The limits of a key in a span of positions."""
        changes = self._limits.get(key, [])
        first = bisect_right(changes, since, key=lambda change: change[0])
        inside: list[LimitChanged | None] = [limit for position, limit in changes if since < position <= until]
        return [changes[first - 1][1] if first else None, *inside]

    def _rate(self, key: str, start: Start) -> None:
        """In any span of time at most burst + rate x seconds, while the clock goes on and the limit stays."""
        starts = self._starts.setdefault(key, [])
        position, limit = self._limits[key][-1] if key in self._limits else (0, None)
        set_back = bisect_right(self._set_back, start.position - 1)
        begun = max(position, self._set_back[set_back - 1] if set_back else 0)
        starts[:] = [other for other in starts if other.seen >= begun]
        if start.seen < begun or limit is None or limit.rate_per_s is None:
            return
        starts.append(start)
        for index, first in enumerate(starts):
            span_s = (start.time_ms - first.time_ms) / 1000
            allowed = float(limit.burst or 1) + limit.rate_per_s * span_s + NOTHING
            assert len(starts) - index <= allowed, f"{len(starts) - index} with {key} began in {span_s} s"
            self.checked["spans of a rate"] += 1
