"""What a fleet leaves on the log: agents, then no-op tasks of three commits and four events each, 300 at a time."""

from __future__ import annotations

from collections.abc import Iterator

from core.actions import registry
from core.agent import AgentSpawned, AgentStarted
from core.kernel.codec import Codec
from core.kernel.commit import Entry, Event, commit_id_of, subject_of
from core.kernel.ids import uuid7
from core.task import Retry, TaskAssigned, TaskCompleted, TaskQueued, TaskSubmitted

AGENTS = 8
TOGETHER = 300
BEGAN_MS = 1_800_000_000_000
RESULT = {"exit_code": 0, "stdout": "done\n", "stderr": "", "duration_s": 0.004}

CODEC = Codec(registry())


def history(events: int) -> list[Entry]:
    """Entries that hold at least this many events, by the real codec, so that every view folds what it is made for."""
    made: list[Entry] = []
    held = 0
    for noun, aggregate_id, command, version, batch in _commits():
        made.append(_entry(len(made) + 1, noun, aggregate_id, command, version, batch))
        held += len(batch)
        if held >= events:
            return made
    raise AssertionError("a fleet never ends")


def _commits() -> Iterator[tuple[str, str, str, int, tuple[Event, ...]]]:
    agents = [str(uuid7()) for _ in range(AGENTS)]
    host = str(uuid7())
    for agent in agents:
        spawned = AgentSpawned(type="shell", name="shell", executor="command", capabilities=["shell"], slots=4)
        yield "agent", agent, "agent.spawn", 1, (spawned,)
        yield "agent", agent, "agent.start", 2, (AgentStarted(host_id=host, session="s1", term=1),)
    position = 2 * AGENTS
    while True:
        tasks = [str(uuid7()) for _ in range(TOGETHER)]
        for task in tasks:
            yield "task", task, "task.submit", 1, (_submitted(), TaskQueued())
        for number, task in enumerate(tasks):
            agent = agents[number % AGENTS]
            assigned = TaskAssigned(agent_id=agent, host_id=host, session="s1", term=1, attempt=1)
            yield "task", task, "task.assign", 2, (assigned,)
        for number, task in enumerate(tasks):
            fence, now_ms = position + TOGETHER + number + 1, BEGAN_MS + position
            completed = TaskCompleted(
                fence=fence, agent_id=agents[number % AGENTS], started_ms=now_ms - 4, result=RESULT
            )
            yield "task", task, "task.complete", 3, (completed,)
        position += 3 * TOGETHER


def _submitted() -> TaskSubmitted:
    return TaskSubmitted(
        type="bench",
        executor="command",
        parameters={"argv": ["true"]},
        requires=[],
        priority=5,
        timeout_s=60.0,
        retry=Retry(),
        project="default",
    )


def _entry(position: int, noun: str, aggregate_id: str, command: str, version: int, events: tuple[Event, ...]) -> Entry:
    command_id = uuid7()
    subject = subject_of(noun, aggregate_id)
    commit_id = commit_id_of(command_id, subject)
    body = CODEC.encode(
        id=commit_id,
        command=command,
        command_id=str(command_id),
        fingerprint="0123456789abcdef0123456789abcdef",
        actor=f"key:{position % 20}",
        correlation_id=aggregate_id,
        causation_id=str(command_id),
        occurred_at=BEGAN_MS + position,
        version=version,
        events=events,
    )
    return Entry(position, subject, commit_id, body)
