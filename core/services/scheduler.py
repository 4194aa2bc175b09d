"""The scheduler's loop: fold the log, decide, issue commands, talk to hosts.

It decides nothing before it has folded its own election; the position of that event is its term. A task is announced
to its host only after the assignment is on the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from core.host import LoseHost
from core.kernel.codec import Codec, Undecodable
from core.kernel.command_bus import Accepted, Caller, CommandBus
from core.kernel.commit import Commit, Entry
from core.kernel.errors import HivebusError, NotFound, OutcomeUnknown, Refused, Unavailable
from core.kernel.ids import uuid7
from core.kernel.ports import Clock, EventLog, Lease
from core.scheduling.election import SCHEDULER_ID, ElectScheduler
from core.scheduling.entries import TaskEntry
from core.scheduling.fleet import Fleet
from core.scheduling.overlay import Overlay
from core.scheduling.policy import TASKS_MAX, Decision, decide, next_due_ms
from core.services import fleet_image
from core.services.decisions import ACTOR, carry_out
from core.services.leadership import Kept, hold
from core.services.link import Beat, BeatAnswer, Cancel, Gateway, Run, Snapshots, run_of
from core.task import CANCEL_GRACE_S, AssignTask, CancelRequested, Task, TaskAssigned

logger = logging.getLogger("hivebus.scheduler")

IN_FLIGHT_MAX = 256
SNAPSHOT_EVERY = 50_000
TURN_S_MAX = 1.0
ANNOUNCED_S = 2.0
SUSPECT_S = 0.8


class Deposed(Unavailable):
    """Another scheduler was elected."""

    default_code = "deposed"


async def _nothing_trimmed() -> int:
    return 0


class Scheduler:
    """Folds the fleet, and leads it while it holds the lease. `run` ends only with an error or by cancellation.

    Without a lease it is a follower: it knows the fleet and decides nothing. With one that can be lost it stands by,
    folding, and may lead again; with one that cannot, another election is an error.
    """

    def __init__(
        self,
        log: EventLog,
        bus: CommandBus,
        codec: Codec,
        clock: Clock,
        gateway: Gateway,
        snapshots: Snapshots,
        *,
        version: str,
        lease_s: float = 20.0,
        role: Lease | None = None,
        trimmed_to: Callable[[], Awaitable[int]] = _nothing_trimmed,
        on_folded: Callable[[Commit], None] | None = None,
        tasks_max: int = TASKS_MAX,
    ) -> None:
        """`trimmed_to`: the last position that may be missing from the log: what was there had ended.

        `on_folded` is told of each commit, for who wants to know what other processes appended.
        """
        self.fleet = Fleet()
        self.term = 0
        self._log = log
        self._bus = bus
        self._codec = codec
        self._clock = clock
        self._gateway = gateway
        self._snapshots = snapshots
        self._version = version
        self._lease_s = lease_s
        self._role = role
        self._trimmed_to = trimmed_to
        self._on_folded = on_folded
        self._tasks_max = tasks_max
        self._overlay = Overlay()
        self._beats: dict[str, tuple[str, float]] = {}
        self._looked_at = clock.monotonic()
        self._losing: set[str] = set()
        self._wake = asyncio.Event()
        self._resigned = False
        self._restored = False
        self._in_flight: set[asyncio.Task[None]] = set()
        # The last entry that was folded in this run.
        self.last: Entry | None = None
        self._saved_at = 0

    @property
    def leading(self) -> bool:
        """Whether the own election has been folded, no newer one has, and the lease is held."""
        return self.term > 0 and self.fleet.term == self.term and self._role is not None and self._role.held

    @property
    def folding(self) -> bool:
        """Whether the fold has begun: what was restored, or followed, stands in `fleet`."""
        return self._restored

    async def run(self) -> None:
        """Restore, fold to the head, and with a lease: be elected, decide, for as long as it is held."""
        await self._restore()
        self._restored = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            if self._role is not None:
                group.create_task(self._stand(self._role))

    def resign(self) -> None:
        """Decide nothing more: what is about to stop must not be given new work."""
        self._resigned = True
        self._wake.set()

    async def save(self) -> None:
        """Keep an image of the fold, so that the next start need not read the whole log."""
        if self.last is None or self.last.position == self._saved_at or self._role is None:
            return
        last = self.last
        await self._snapshots.save(fleet_image.written(self._version, last, self.fleet))
        self._saved_at = last.position

    async def beat(self, beat: Beat) -> BeatAnswer:
        """Renew a host's lease and tell it what the log says. Raises Unavailable before this scheduler leads."""
        if not self.leading:
            raise Unavailable("No scheduler leads yet.", code="no_leader", retry_after_s=1)
        if self.fleet.position < beat.registered_at:
            raise Unavailable("This session is not folded yet.", code="no_leader", retry_after_s=1)
        host = self.fleet.hosts.get(beat.host_id)
        if host is None or host.session != beat.session:
            return BeatAnswer(alive=False, term=self.term, void=beat.running)
        self._beats[beat.host_id] = (beat.session, self._clock.monotonic())
        entries = [self.fleet.tasks[task_id] for task_id in host.running]
        cancels = tuple(Cancel(entry.id, entry.fence, CANCEL_GRACE_S) for entry in entries if entry.cancelling)
        listed = set(beat.running)
        lost = [(e.id, e.fence) for e in entries if (e.id, e.fence) not in listed and self._silent(e, beat.session)]
        runs = [run for task_id, fence in lost if (run := await self._run_of(task_id, fence)) is not None]
        void = tuple((task_id, fence) for task_id, fence in beat.running if self._is_void(task_id, fence))
        return BeatAnswer(alive=True, term=self.term, lease_s=self._lease_s, run=tuple(runs), cancel=cancels, void=void)

    def suspect(self, host_id: str, life: str) -> None:
        """The connection of a host's life has ended: its session is given up unless it beats again very soon."""
        host = self.fleet.hosts.get(host_id)
        if self.leading and host is not None and host.session.startswith(f"{life}.") and host_id not in self._losing:
            self._losing.add(host_id)
            self._start(self._doubt(host_id, host.session))

    # --- folding ---

    async def _restore(self) -> None:
        raw = await self._snapshots.load()
        fleet = None
        if raw is not None:
            fleet = await fleet_image.restored(raw, self._version, self._log, self._trimmed_to)
        if fleet is not None:
            self.fleet = fleet
            self._saved_at = fleet.position

    async def _follow(self) -> None:
        trimmed_to = await self._trimmed_to()
        async for batch in self._log.follow(after=self.fleet.position, trimmed_to=trimmed_to):
            for entry in batch:
                self._fold(entry)
            self.last = batch[-1]
            self._overlay.sweep(self.fleet)
            self._wake.set()
            if self.last.position - self._saved_at >= SNAPSHOT_EVERY:
                await self.save()

    def _fold(self, entry: Entry) -> None:
        try:
            commit = self._codec.decode(entry)
        except Undecodable:
            logger.error("Position %d cannot be decoded; the recorder parks it.", entry.position)
            self.fleet.position = entry.position
            return
        self.fleet.fold(commit)
        if self._on_folded is not None:
            self._on_folded(commit)
        if commit.noun == "task" and self.leading:
            self._pass_on_cancel(commit)

    def _pass_on_cancel(self, commit: Commit) -> None:
        for event in commit.events:
            entry = self.fleet.tasks.get(commit.aggregate_id)
            if isinstance(event, CancelRequested) and entry is not None and entry.held:
                self._gateway.cancel(entry.host_id, Cancel(entry.id, entry.fence, event.grace_s))

    # --- deciding ---

    async def _stand(self, role: Lease) -> None:
        while not self._resigned:
            await hold(role, self._lead)

    async def _lead(self) -> None:
        try:
            await self._elect()
            await self._decide_on()
        except Deposed as deposed:
            if isinstance(self._role, Kept):
                raise
            logger.warning("%s It stands by.", deposed.sentence)
        finally:
            self.term = 0

    async def _decide_on(self) -> None:
        while not self._resigned:
            if self.leading:
                self._watch_leases()
                room = max(0, IN_FLIGHT_MAX - len(self._in_flight))
                now_ms = self._clock.now_ms()
                for decision in decide(self.fleet, self._overlay, now_ms, limit=room, tasks_max=self._tasks_max):
                    self._issue(decision)
            await self._turn()

    async def _elect(self) -> None:
        """Append the election and wait until the fold has seen it."""
        while True:
            try:
                command = ElectScheduler(scheduler_id=SCHEDULER_ID, leader=str(uuid7(self._clock.now_ms())))
                accepted = await self._bus.execute(command, Caller(actor=ACTOR))
                break
            except Unavailable as error:
                logger.warning("Not elected yet: %s", error.sentence)
                await self._clock.sleep(1.0)
        self.term = accepted.position
        while self.fleet.term < self.term:
            await self._turn()
        # A leader that just began knows no beats: every host gets a whole lease from its first look at it.
        self._beats.clear()
        logger.info("This scheduler leads in term %d.", self.term)

    async def _turn(self) -> None:
        """Wait for something new on the log, a finished command, or a time that is due."""
        due_ms = next_due_ms(self.fleet)
        wait_s = TURN_S_MAX
        if due_ms is not None and len(self._in_flight) < IN_FLIGHT_MAX:
            wait_s = min(wait_s, max(0.001, (due_ms - self._clock.now_ms()) / 1000))
        # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with the wake.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        self._wake.clear()
        if self.fleet.term > self.term > 0:
            raise Deposed("Another scheduler was elected; this one decides nothing more.")

    def _watch_leases(self) -> None:
        now = self._clock.monotonic()
        # A process that stood still (SIGSTOP, a paused machine) could not hear: that time is no host's silence.
        deaf_s = max(0.0, now - self._looked_at - 2 * TURN_S_MAX)
        self._looked_at = now
        for host in self.fleet.hosts.values():
            if not host.session:
                continue
            session, seen = self._beats.get(host.id, ("", now))
            seen = now if session != host.session else seen + deaf_s
            self._beats[host.id] = (host.session, seen)
            if now - seen > self._lease_s and host.id not in self._losing:
                self._losing.add(host.id)
                reason = f"no beat for {self._lease_s:g} s"
                self._start(self._lose(LoseHost(host_id=host.id, session=host.session, reason=reason)))

    async def _doubt(self, host_id: str, session: str) -> None:
        """A broker's restart disconnects healthy hosts too: those beat as soon as they are connected again."""
        since = self._clock.monotonic()
        await self._clock.sleep(SUSPECT_S)
        seen_session, seen = self._beats.get(host_id, ("", since))
        host = self.fleet.hosts.get(host_id)
        if host is None or host.session != session or (seen_session == session and seen > since) or not self.leading:
            self._losing.discard(host_id)
            return
        reason = "its connection ended and did not come back"
        await self._lose(LoseHost(host_id=host_id, session=session, reason=reason))

    async def _lose(self, command: LoseHost) -> None:
        try:
            await self._bus.execute(command, Caller(actor=ACTOR))
            logger.warning("Host %s is lost: %s.", command.host_id, command.reason)
        except HivebusError as error:
            logger.warning("Host %s: %s", command.host_id, error.sentence)
        finally:
            self._losing.discard(command.host_id)

    def _issue(self, decision: Decision) -> None:
        self._overlay.hold(decision.key, decision.claim)
        self._start(self._execute(decision))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._in_flight.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            logger.error("A decision failed.", exc_info=task.exception())

    async def _execute(self, decision: Decision) -> None:
        key = decision.key
        try:
            accepted = await carry_out(self._bus, decision)
            if accepted is None:
                self.fleet.children.clear(key)
                self._settle(key, self.fleet.position)
                return
        except (Refused, NotFound, OutcomeUnknown) as error:
            # Refused: the log knows more than the fold. Unknown: it may hold the commit. Either way the fold must
            # pass the log's head before it speaks for this key again.
            logger.debug("%s: %s", key, error.sentence)
            await self._settle_at_head(key)
        except Unavailable as error:
            logger.warning("Deciding waits: %s", error.sentence)
            await self._clock.sleep(0.2)
            self._settle(key, self.fleet.position)
        except Exception:
            # What should not happen must not hold a slot for ever either: it is said loudly and tried again.
            logger.exception("A decision about %s failed.", key)
            await self._clock.sleep(1.0)
            await self._settle_at_head(key)
        else:
            self._settle(key, accepted.position)
            if isinstance(decision.command, AssignTask):
                self._announce(accepted)

    def _settle(self, key: str, position: int) -> None:
        self._overlay.settle(key, position)
        self._overlay.sweep(self.fleet)

    async def _settle_at_head(self, key: str) -> None:
        while True:
            try:
                self._settle(key, await self._log.head())
                return
            except Unavailable:
                await self._clock.sleep(0.5)

    # --- hosts ---

    def _announce(self, accepted: Accepted) -> None:
        state: Task = accepted.state
        event = accepted.events[0] if accepted.events else None
        if isinstance(event, TaskAssigned) and self.leading:
            self._gateway.run(event.host_id, run_of(accepted.aggregate_id, state, event.session, self.term))

    async def _run_of(self, task_id: str, fence: int) -> Run | None:
        """The announcement again, unless the log has moved on while it was read."""
        state: Task = await self._bus.load("task", task_id)
        entry = self.fleet.tasks.get(task_id)
        if entry is None or entry.fence != fence or not state.held or state.fence != fence or state.cancelling:
            return None
        return run_of(task_id, state, entry.session, self.term)

    def _silent(self, entry: TaskEntry, session: str) -> bool:
        """Whether the announcement must have been lost: the assignment is older than any message on its way."""
        old = self._clock.now_ms() - entry.assigned_ms > ANNOUNCED_S * 1000
        return old and entry.held and entry.session == session and not entry.cancelling

    def _is_void(self, task_id: str, fence: int) -> bool:
        entry = self.fleet.tasks.get(task_id)
        return fence <= self.fleet.position and (entry is None or entry.fence != fence)
