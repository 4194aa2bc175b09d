"""What a scheduler and its hosts say to each other.

Hosts hold no database and never append: they run what they are told to run and answer with commands that carry the
fence. A lost message costs one beat, because each beat's answer names what must run and what is void.
"""

from __future__ import annotations

from typing import Any, Protocol

from msgspec import Struct

from core.execution import Usage
from core.task import Answered, Task, left_of, placed


class Run(Struct, frozen=True, kw_only=True):
    """Run this attempt."""

    task_id: str
    fence: int
    term: int
    session: str
    agent_id: str
    attempt: int
    type: str
    executor: str
    parameters: dict[str, Any]
    timeout_s: float
    correlation_id: str
    silence_timeout_s: float | None = None
    answers: tuple[Answered, ...] = ()
    left: Usage = Usage()


def run_of(task_id: str, state: Task, session: str, term: int) -> Run:
    """The announcement of the attempt that holds a task."""
    spec = state.spec
    return Run(
        task_id=task_id,
        fence=state.fence,
        term=term,
        session=session,
        agent_id=state.agent_id or "",
        attempt=state.attempt,
        type=spec.type,
        executor=spec.executor,
        parameters=placed(spec.parameters, state.inputs),
        timeout_s=spec.timeout_s,
        correlation_id=state.correlation_id,
        silence_timeout_s=spec.silence_timeout_s,
        answers=state.answers,
        left=left_of(state),
    )


class Cancel(Struct, frozen=True):
    """Stop this attempt: ask, and after the grace make it."""

    task_id: str
    fence: int
    grace_s: float


class Beat(Struct, frozen=True, kw_only=True):
    """A host lives, and runs these (task id, fence). Its session began at the position `registered_at`."""

    host_id: str
    session: str
    registered_at: int
    running: tuple[tuple[str, int], ...]


class BeatAnswer(Struct, frozen=True, kw_only=True):
    """What the log says about a host. `alive` is false when its session is over: it must begin a new one.

    `lease_s` is how long the scheduler waits for a beat: a host ends its attempts by itself before that.
    """

    alive: bool
    term: int
    lease_s: float | None = None
    run: tuple[Run, ...] = ()
    cancel: tuple[Cancel, ...] = ()
    void: tuple[tuple[str, int], ...] = ()


class Control(Protocol):
    """What a host reaches of the bus."""

    async def execute(
        self, command: Struct, *, correlation_id: str, cause: int = 0, command_id: str | None = None
    ) -> int:
        """Issue a command of scope `host`, caused by a position; the position of its commit.

        Raises what CommandBus.execute raises. A lost answer is Unavailable: the same command id makes a repeat
        harmless. Forbidden for any other command.
        """
        ...

    async def beat(self, beat: Beat) -> BeatAnswer:
        """Renew the lease, answered by the leading scheduler alone. Raises Unavailable while nobody leads."""
        ...


class Gateway(Protocol):
    """What a scheduler reaches of its hosts. Messages may be lost; the next beat makes up for it."""

    def run(self, host_id: str, run: Run) -> None:
        """Ask a host to begin an attempt."""
        ...

    def cancel(self, host_id: str, cancel: Cancel) -> None:
        """Ask a host to stop an attempt."""
        ...


class Snapshots(Protocol):
    """Disposable images of a fold."""

    async def load(self) -> bytes | None:
        """The newest image, if there is one that is whole."""
        ...

    async def save(self, image: bytes) -> None:
        """Replace the image."""
        ...
