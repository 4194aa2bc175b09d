"""Dependencies: the end of one task leads to a command for each that waits for it.

Only blocked tasks and the tasks they wait for are kept, so an event costs what it concerns. A dependency that had ended
before its dependent was submitted is not alive here: whoever issues the command looks it up, and as an end never
changes, it does not matter when.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from core.kernel.commit import Commit
from core.task import DependenciesEnded, DependencyEnd, SettleDependencies, Task, TaskCompleted, TaskSubmitted
from core.task.events import task
from core.task.inputs import INPUTS_MAX_BYTES, NoPlace, chosen, fitted

ENDS = {struct: spec.name.partition(".")[2] for struct, spec in task.events.items() if spec.final}


class Blocked(Struct):
    """A blocked task: the tasks it waits for that live, that have ended, and that must be looked up.

    `data`: those whose results it gets. `strict`: it runs only if all complete. `position`: of what came last.
    """

    position: int
    strict: bool
    data: set[str]
    live: set[str]
    unseen: set[str]
    ended: dict[str, DependencyEnd] = msgspec.field(default_factory=dict)

    @property
    def bad(self) -> DependencyEnd | None:
        """An end that decides all by itself."""
        if not self.strict:
            return None
        return next((end for end in self.ended.values() if end.status != "completed"), None)

    @property
    def due(self) -> bool:
        """Whether its aggregate must hear of something: it hears of good ends once all have come."""
        return bool(self.unseen or (self.ended and (not self.live or self.bad is not None)))


class Dependencies:
    """All blocked tasks that wait for others."""

    def __init__(self, blocked: dict[str, Blocked] | None = None, ready: Sequence[str] = ()) -> None:
        """`ready`: the ids of those that are due, in the order in which they became it."""
        self.blocked = blocked or {}
        self._dependents: dict[str, set[str]] = {}
        self._due: dict[str, None] = dict.fromkeys(ready)
        for task_id, entry in self.blocked.items():
            self._index(task_id, entry)

    @property
    def ready(self) -> list[str]:
        """Those that are due, the first first."""
        return list(self._due)

    # --- the fold ---

    def submit(self, task_id: str, position: int, event: TaskSubmitted, alive: Container[str]) -> None:
        """A task was submitted that waits for others, some of which are alive."""
        items = [item for item in event.depends_on or () if item.task is not None]
        if not items:
            return
        tasks = {str(item.task) for item in items}
        live = {id_ for id_ in tasks if id_ in alive}
        entry = Blocked(
            position=position,
            strict=event.on_dependency_failure != "run",
            data={str(item.task) for item in items if item.type == "data"},
            live=live,
            unseen=tasks - live,
        )
        self.blocked[task_id] = entry
        self._index(task_id, entry)

    def settle(self, task_id: str, position: int, event: DependenciesEnded) -> None:
        """A blocked task has heard of ends."""
        entry = self.blocked.get(task_id)
        if entry is None:
            return
        entry.position = position
        for end in event.ends:
            entry.unseen.discard(end.task)
            entry.ended.pop(end.task, None)
            if end.task in entry.live:
                entry.live.discard(end.task)
                self._unlink(end.task, task_id)
        self._look(task_id, entry)

    def leave(self, task_id: str) -> None:
        """A task is not blocked any more."""
        entry = self.blocked.pop(task_id, None)
        if entry is None:
            return
        self._due.pop(task_id, None)
        for dependency in entry.live:
            self._unlink(dependency, task_id)

    def end(self, task_id: str, status: str, position: int) -> None:
        """A task has ended: what waits for it may be due."""
        self.leave(task_id)
        for dependent in sorted(self._dependents.pop(task_id, ())):
            entry = self.blocked[dependent]
            entry.live.discard(task_id)
            entry.ended[task_id] = DependencyEnd(task=task_id, status=status, position=position)
            entry.position = position
            self._look(dependent, entry)

    def _index(self, task_id: str, entry: Blocked) -> None:
        for dependency in entry.live:
            self._dependents.setdefault(dependency, set()).add(task_id)
        self._look(task_id, entry)

    def _unlink(self, dependency: str, dependent: str) -> None:
        dependents = self._dependents.get(dependency)
        if dependents is not None:
            dependents.discard(dependent)
            if not dependents:
                del self._dependents[dependency]

    def _look(self, task_id: str, entry: Blocked) -> None:
        if entry.due:
            self._due[task_id] = None
        else:
            self._due.pop(task_id, None)

    # --- the commands ---

    def due(self, under_way: Container[str]) -> Iterator[tuple[SettleDependencies, int]]:
        """The commands that are due, and for each the position that led to it; what is under way waits."""
        for task_id in self._due:
            if task_id not in under_way:
                entry = self.blocked[task_id]
                yield _settlement(task_id, entry), entry.position


def _settlement(task_id: str, entry: Blocked) -> SettleDependencies:
    bad = entry.bad
    if bad is not None:
        return SettleDependencies(task_id=task_id, ends=[bad])
    look_up = sorted(entry.unseen)
    ends = []
    if not entry.live:
        look_up += sorted(id_ for id_ in entry.ended if id_ in entry.data)
        ends = [end for id_, end in entry.ended.items() if id_ not in entry.data]
    return SettleDependencies(task_id=task_id, ends=ends, look_up=look_up)


class Settlement:
    """A command whose dependencies are being looked up, one after the other: only what is chosen of a result stays."""

    def __init__(self, command: SettleDependencies, state: Task) -> None:
        self._command = command
        self._spec = state.spec
        self._ends = list(command.ends)
        self._inputs: dict[str, Any] = {}
        self._bytes = sum(len(msgspec.json.encode(value)) for value in state.inputs.values())
        self._problem: str | None = None

    def add(self, task_id: str, commits: Sequence[Commit]) -> bool:
        """Take in the whole history of a dependency; whether it has ended. None at all is an end too: `unknown`."""
        if not commits:
            self._ends.append(DependencyEnd(task=task_id, status="unknown", position=0))
            return True
        for commit in reversed(commits):
            for event in commit.events:
                status = ENDS.get(type(event))
                if status is not None:
                    self._ends.append(DependencyEnd(task=task_id, status=status, position=commit.position))
                    if isinstance(event, TaskCompleted):
                        self._choose(task_id, event.result)
                    return True
        return False

    def command(self) -> SettleDependencies:
        """The command as its aggregate decides it. Inputs have the order of depends_on, whatever ended first."""
        order = [item.into for item in self._spec.depends_on or () if item.into is not None]
        inputs = {into: self._inputs[into] for into in order if into in self._inputs}
        return msgspec.structs.replace(self._command, ends=self._ends, look_up=[], inputs=inputs, problem=self._problem)

    def _choose(self, task_id: str, result: Mapping[str, Any]) -> None:
        for item in self._spec.depends_on or ():
            if item.task != task_id or item.into is None or self._problem is not None:
                continue
            try:
                value = fitted(self._spec.executor, chosen(result, item.source or ""))
            except NoPlace as nothing:
                self._problem = f"The result of task {task_id}, which it depends on, {nothing}."
                continue
            self._bytes += len(msgspec.json.encode(value))
            if self._bytes > INPUTS_MAX_BYTES:
                self._problem = (
                    f"The results that it depends on are larger than {INPUTS_MAX_BYTES} bytes together with that of "
                    f"task {task_id}; take a part of it by `from`, or let it return a blob."
                )
                continue
            self._inputs[item.into] = value
