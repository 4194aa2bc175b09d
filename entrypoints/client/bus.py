"""The bus as a program sees it: every action of the registry, the events, and the ends of tasks."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any
from weakref import WeakSet

from msgspec import Struct

from core.kernel.errors import Invalid, NotYet
from core.task import FINAL, SubmitTask
from entrypoints.cli.place import Place, locate
from entrypoints.client.actions import WRITES, fields_of, name_of_command, name_of_query, reads
from entrypoints.client.calling import ask
from entrypoints.client.connector import Connector
from entrypoints.client.endings import Endings
from entrypoints.client.events import Events

PATIENCE_S = 60.0
# As many as the server takes of one connection at a time: more would make it stop reading, pongs too.
CALLS_IN_FLIGHT_MAX = 16


def connect(
    url: str | None = None,
    key: str | None = None,
    *,
    patience_s: float = PATIENCE_S,
    patience_first_s: float = 0.0,
) -> Bus:
    """The bus of a server, to be entered: `async with hivebus.connect() as bus`.

    Without `url` it is the server that HIVEBUS_URL and HIVEBUS_KEY name, else the one that runs with the data directory
    of this machine (HIVEBUS_DATA_DIR). A server that goes away is waited for up to `patience_s` seconds, in each call
    and in each stream of events; one that never answered up to `patience_first_s`. `math.inf` waits for ever.
    """

    def named() -> Place:
        return Place((url or "").rstrip("/"), key)

    def found() -> Place:
        place = locate()
        return Place(place.url, key or place.key, place.local)

    return Bus(named if url is not None else found, patience_s=patience_s, patience_first_s=patience_first_s)


class Bus:
    """A client of one server. Calls share one connection; each stream of events has its own.

    Every method raises HivebusError: what the server said (`code`, `sentence`, `remedy`, `pointer`), Unreachable for a
    server that is away for too long.
    """

    def __init__(
        self,
        place: Callable[[], Place],
        *,
        patience_s: float,
        patience_first_s: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._place = place
        self._patience_s = patience_s
        self._patience_first_s = patience_first_s
        self._draw = draw
        self._connector = self._connect(met=False)
        self._turn = asyncio.Semaphore(CALLS_IN_FLIGHT_MAX)
        self._streams: WeakSet[Connector] = WeakSet()
        self._endings = Endings(lambda after: self.events(after, noun="task"))

    async def __aenter__(self) -> Bus:
        try:
            await ask(self._connector, "ping", {}, repeatable=True)
        except BaseException:
            await self._connector.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._endings.close()
        for connector in (*self._streams, self._connector):
            await connector.close()

    # --- actions ---

    async def call(self, action: str, /, **params: Any) -> dict[str, Any]:
        """Any action by its name, with its fields and options: `await bus.call("task.list", status="failed")`.

        A command gets an `idempotency_key` of its own unless it is given one, so it may be sent again after a lost
        connection and is carried out once. Give one yourself to make it repeatable beyond this program's life.
        """
        if action in WRITES and params.get("idempotency_key") is None:
            params["idempotency_key"] = str(uuid.uuid4())
        repeatable = params.get("idempotency_key") is not None or action in reads()
        async with self._turn:
            answer: dict[str, Any] = await ask(self._connector, action, params, repeatable=repeatable)
            return answer

    async def execute(self, command: Struct, **options: Any) -> dict[str, Any]:
        """A command as its Struct: `await bus.execute(hivebus.CancelTask(task_id=task_id))`.

        Options: `idempotency_key`, `correlation_id`, and `wait`: "recorded", or seconds, until the views hold it.
        """
        return await self.call(name_of_command(command), **fields_of(command), **options)

    async def query(self, query: Struct, **options: Any) -> dict[str, Any]:
        """A query as its Struct: `await bus.query(hivebus.ListTasks(status="failed"), at=5400)`.

        Options: `at`, a position or an RFC 3339 time, and `min_position`.
        """
        return await self.call(name_of_query(query), **fields_of(query), **options)

    async def submit(self, task: SubmitTask | None = None, /, **fields: Any) -> dict[str, Any]:
        """Submit a task, as a Struct or by its fields: {task_id, position, status, created_at, correlation_id}.

        Options stand beside the fields, or beside the Struct, as with `execute`.
        """
        said = fields_of(task) if task is not None else {}
        return await self.call("task.submit", **said, **fields)

    async def cancel(self, task_id: str, *, reason: str | None = None) -> dict[str, Any]:
        """Cancel a task: {message, previous_status, status, ...}."""
        return await self.call("task.cancel", task_id=task_id, **({} if reason is None else {"reason": reason}))

    async def task(self, task_id: str, **options: Any) -> dict[str, Any]:
        """All that is known of a task: `status`, `result`, `attempts`, `history`, ..."""
        return await self.call("task.show", task_id=task_id, **options)

    # --- what happens ---

    async def result(self, task_id: str, timeout_s: float | None = None) -> dict[str, Any]:
        """The task once it has ended, well or not: `status` says how, `result` what it gave, `error` why not.

        Raises NotYet after `timeout_s` seconds; the task goes on.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ended(task_id)
        except TimeoutError:
            raise NotYet(
                f"Task {task_id} has not ended within {timeout_s:g} s.",
                remedy="Wait longer, or cancel it; `unassignable` of the task says why nobody takes it.",
            ) from None

    async def _ended(self, task_id: str) -> dict[str, Any]:
        task = await self.task(task_id)
        if task["status"] in FINAL:
            return task
        ended, seen = self._endings.start(task_id, int(task["position"]))
        try:
            # What ended before this wait began is in the views at that position; what ends later is told.
            task = await self.task(task_id, min_position=seen)
            if task["status"] not in FINAL:
                task = await self.task(task_id, min_position=await ended)
        finally:
            await self._endings.leave(task_id, ended)
        return task

    def events(
        self,
        after: int | None = None,
        *,
        noun: str | None = None,
        verb: str | None = None,
        id: str | None = None,  # noqa: A002 - the filter's own word
        agent: str | None = None,
        correlation_id: str | None = None,
    ) -> Events:
        """The events after a position, by default from now on, for `async for`: in order, none missing, none twice.

        Store `position` of what this gives, and pass it as `after` the next time.
        """
        if after is not None and after < 0:
            raise Invalid("`after` is a position: 0 or more.", remedy="Leave it out to begin now.")
        words = {"noun": noun, "verb": verb, "id": id, "agent": agent, "correlation_id": correlation_id}
        connector = self._connect(met=self._connector.met)
        self._streams.add(connector)
        return Events(connector, after, {name: word for name, word in words.items() if word is not None})

    def _connect(self, *, met: bool) -> Connector:
        return Connector(
            self._place, patience_s=self._patience_s, patience_first_s=self._patience_first_s, draw=self._draw, met=met
        )
