"""SIGTERM under load answers what is in flight; a host that is held back loses its tasks and its late results."""

from __future__ import annotations

import asyncio
import http.client
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from msgspec import Struct

from adapters.clock import SystemClock
from adapters.memory.hosts import LocalControl, LocalGateway
from adapters.memory.log import MemoryLog
from adapters.memory.store import MemoryStore
from core.actions import registry as make_registry
from core.agent import SpawnAgent
from core.execution import Attempt, CancelToken, Outcome, Progress
from core.kernel.codec import Codec
from core.kernel.command_bus import Caller, CommandBus
from core.kernel.errors import Refused
from core.services.agent_host import AgentHost
from core.services.host_door import HostDoor
from core.services.leadership import Kept
from core.services.link import Beat, BeatAnswer
from core.services.scheduler import Scheduler
from core.task import SubmitTask
from tests.accept.program import Program, gone
from tests.accept.script import Figures, Options, expect, main, note

GRACE_S = 10.0


def run(options: Options) -> Figures:
    """Both halves of the Show."""
    terms = [_terminate(options, number) for number in range(options.count(5, 2))]
    held = asyncio.run(_held_back(options))
    return {
        "sigterms": len(terms),
        "answered": sum(term["answered"] for term in terms),
        "in_flight_lost": sum(term["lost"] for term in terms),
        "exit_s_max": round(max(term["seconds"] for term in terms), 2),
        **held,
    }


# --- SIGTERM under load -----------------------------------------------------------------------------------------------


class Poster(threading.Thread):
    """Posts until the listener is gone; a request that was sent and not answered is lost."""

    def __init__(self, program: Program) -> None:
        super().__init__(daemon=True)
        self.client = program.client()
        self.statuses: Counter[int] = Counter()
        self.lost = 0

    def run(self) -> None:
        task = {"type": "load", "executor": "python", "parameters": {"function": "noop"}}
        while True:
            try:
                self.statuses[self.client.request("POST", "/api/tasks", task).status] += 1
            except ConnectionRefusedError:
                return
            except (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected):
                # The server may close an idle connection just as a request is sent on it (RFC 9112, 9.5): then nothing
                # was read of it, and a client sends it again. The events tell whether it was.
                self.lost += 1
                return


def _terminate(options: Options, number: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        program = Program(Path(folder) / "data")
        program.start()
        slow = {"type": "slow", "executor": "command", "parameters": {"argv": ["sleep", "30"]}}
        slow_id = program.client().request("POST", "/api/tasks", slow).json["task_id"]
        posters = [Poster(program) for _ in range(16)]
        for poster in posters:
            poster.start()
        time.sleep(1.0 + number * 0.137)
        family = program.family()
        began = time.monotonic()
        code = program.terminate()
        seconds = time.monotonic() - began
        for poster in posters:
            poster.join(20)
        expect(code == 0, f"exit code {code} after SIGTERM: {program.log.read_text()[-800:]}")
        expect(seconds < GRACE_S, f"{seconds:.1f} s are longer than the grace")
        alive = gone(family, within_s=1.0)
        expect(not alive, f"outlived the program: {[process.cmdline() for process in alive]}")
        answered = sum(sum(poster.statuses.values()) for poster in posters)
        accepted = sum(poster.statuses[202] for poster in posters)
        odd = {s: n for poster in posters for s, n in poster.statuses.items() if s not in (202, 503)}
        expect(not odd, f"answers {odd}")
        program.start()
        events = program.client().events()
        submitted = sum(e["type"] == "hivebus.task.submitted" and e["data"]["type"] == "load" for e in events)
        expect(submitted == accepted, f"{accepted} were acknowledged, {submitted} are on the log")
        interrupted = [e for e in events if e["subject"] == f"task/{slow_id}" and e["type"].endswith("attempt_ended")]
        expect(interrupted and interrupted[0]["data"]["outcome"] == "interrupted", f"{interrupted}")
        program.client().request("DELETE", f"/api/tasks/{slow_id}")
        program.terminate()
        note(f"SIGTERM {number + 1}: {answered} answered, exit 0 after {seconds:.2f} s")
        return {"answered": answered, "lost": submitted - accepted, "seconds": seconds}


# --- a host held back -------------------------------------------------------------------------------------------------


class HeldBack:
    """A control port that stops passing anything on while `held`."""

    def __init__(self, control: LocalControl) -> None:
        self._control = control
        self.free = asyncio.Event()
        self.free.set()
        self.refused = 0

    async def execute(
        self, command: Struct, *, correlation_id: str, cause: int = 0, command_id: str | None = None
    ) -> int:
        await self.free.wait()
        try:
            return await self._control.execute(
                command, correlation_id=correlation_id, cause=cause, command_id=command_id
            )
        except Refused as refused:
            self.refused += refused.code == "stale_fence"
            raise

    async def beat(self, beat: Beat) -> BeatAnswer:
        await self.free.wait()
        return await self._control.beat(beat)


class Deaf:
    """An executor that finishes its work whatever the token says: the worst kind of ghost."""

    name = "command"

    def __init__(self) -> None:
        self.finish = asyncio.Event()
        self.begun = 0

    async def run(self, attempt: Attempt, token: CancelToken, report: Any) -> Outcome:
        self.begun += 1
        await self.finish.wait()
        report(Progress(progress=1.0))
        return Outcome(outcome="completed", result={"exit_code": 0, "by": attempt.agent_id})


class NoSnapshots:
    async def load(self) -> None:
        return None

    async def save(self, image: bytes) -> None:
        return None


async def _held_back(options: Options) -> Figures:
    """Two hosts; the port of the first is held back for 60 s with the default lease of 20 s (FAST: 3 s and 1 s)."""
    hold_s, lease_s, stop_s, beat_s = (3.0, 1.0, 0.7, 0.2) if options.fast else (60.0, 20.0, 15.0, 5.0)
    log, clock, store = MemoryLog(), SystemClock(), MemoryStore()
    registry = make_registry()
    codec = Codec(registry)
    bus = CommandBus(log, registry, codec, clock, store)
    gateway = LocalGateway()
    scheduler = Scheduler(log, bus, codec, clock, gateway, NoSnapshots(), version="test", lease_s=lease_s, role=Kept())
    executors = [Deaf(), Deaf()]
    door = HostDoor(bus, registry)
    controls = [HeldBack(LocalControl(door, scheduler.beat, f"host-{name}")) for name in "ab"]
    hosts = [
        AgentHost(f"host-{name}", name, {"command": executor}, control, clock, beat_s=beat_s, self_stop_s=stop_s)
        for name, executor, control in zip("ab", executors, controls, strict=True)
    ]
    for host in hosts:
        gateway.add(host)
    running = [asyncio.create_task(scheduler.run())]
    while not scheduler.leading:
        await asyncio.sleep(0.01)
    running.append(asyncio.create_task(hosts[0].live()))
    await bus.execute(SpawnAgent(type="shell", slots=4), Caller(actor="test"))
    await _until(lambda: any(agent.status == "idle" for agent in scheduler.fleet.agents.values()), 10)
    for _ in range(4):
        submit = SubmitTask(type="held", executor="command", parameters={"argv": ["true"]})
        await bus.execute(submit, Caller(actor="test"))
    await _until(lambda: executors[0].begun == 4, 10)
    # The second host takes the agent over once the first is lost.
    running.append(asyncio.create_task(hosts[1].live()))
    controls[0].free.clear()
    began = clock.monotonic()
    executors[0].finish.set()
    await _until(lambda: executors[1].begun == 4, lease_s + 3 * beat_s + 2)
    requeued_s = clock.monotonic() - began
    executors[1].finish.set()
    await _until(lambda: not scheduler.fleet.tasks, 10)
    while clock.monotonic() - began < hold_s:
        await asyncio.sleep(0.05)
    controls[0].free.set()
    await _until(lambda: controls[0].refused == 4, 10)
    kinds = Counter([event.type async for event in _events(log, codec)])
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    expect(requeued_s <= lease_s + beat_s + 2, f"requeued after {requeued_s:.1f} s with a lease of {lease_s} s")
    expect(kinds["task.completed"] == 4, f"{kinds}")
    expect(kinds["command.refused"] == 4, f"late results: {kinds}")
    return {
        "held_back_s": hold_s,
        "lease_s": lease_s,
        "running_elsewhere_after_s": round(requeued_s, 1),
        "late_results_refused": controls[0].refused,
        "completed_once": kinds["task.completed"],
    }


async def _until(condition: Any, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


async def _events(log: MemoryLog, codec: Codec) -> Any:
    for position in range(1, await log.head() + 1):
        entry = await log.entry(position)
        assert entry is not None
        for record in codec.body(entry.body).events:
            yield record


if __name__ == "__main__":
    main("drain", run)
