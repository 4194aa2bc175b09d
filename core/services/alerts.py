"""The watch: measures, judges, and raises and clears alerts.

The leader watches the fleet; every process watches the disk that it writes to. Nothing but the times that something is
on its way is kept here: what is live is folded from the log, so a new leader raises nothing twice.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn, Protocol

from msgspec import Struct

from core.alert import ClearAlert, RaiseAlert
from core.budget import ALL
from core.kernel.command_bus import Caller, CommandBus
from core.kernel.errors import HivebusError, NotFound
from core.kernel.ports import Clock
from core.kernel.times import rfc3339
from core.process_managers.alerts import LIVE_MAX, LOCAL, Fact, Facts, Key, Rule, Turn, judge
from core.scheduling.fleet import Fleet
from core.services.decisions import ACTOR
from core.services.disk import DiskGuard, Level
from core.services.positions import PositionGate

logger = logging.getLogger("hivebus.alerts")

EVERY_S = 1.0
SAMPLES_MAX = 600
# There is one queue, one store and one set of views.
QUEUE, STORE, VIEWS = "queue", "store", "views"
FROM_VIEWS = frozenset({"queue_age", "dead_letters"})


class Leader(Protocol):
    """The scheduler of this process, whether it leads or not."""

    fleet: Fleet

    @property
    def leading(self) -> bool:
        """Whether it decides now."""
        ...


class QueueState(Struct, frozen=True):
    """What the views tell: how long the oldest queued task has waited, how many wait, and the dead letters."""

    oldest_age_s: float
    queued: int
    dead_letters: int


class Lag:
    """How many seconds something follows behind the log: since when its next commit has been there."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def seconds(self, now_s: float, head: int, reached: int) -> float:
        """The log stands at `head` now, the follower at `reached`. Beyond 600 looks behind it only grows."""
        samples = self._samples
        newest = samples[-1][1] if samples else reached
        if head > newest and len(samples) < SAMPLES_MAX:
            samples.append((now_s, head))
        while samples and samples[0][1] <= reached:
            samples.popleft()
        return now_s - samples[0][0] if samples else 0.0


class AlertWatch:
    """One look a second."""

    def __init__(
        self,
        bus: CommandBus,
        leader: Leader,
        rules: Mapping[str, Rule],
        clock: Clock,
        *,
        queue: Callable[[int], Awaitable[QueueState]],
        disk: DiskGuard,
        machine: str,
        window_s: float,
        recorded: PositionGate,
        applied: PositionGate,
    ) -> None:
        """`queue` counts dead letters since a time (ms), or raises HivebusError; `machine` names this one's disk."""
        self._bus = bus
        self._leader = leader
        self._rules = rules
        self._clock = clock
        self._queue = queue
        self._disk = disk
        self._machine = machine
        self._window_ms = int(window_s * 1000)
        self._recorded = recorded
        self._applied = applied
        self._recording, self._applying = Lag(), Lag()
        self._turns: dict[Key, Turn] = {}
        self._trouble = ""

    async def run(self) -> NoReturn:
        """Look for ever."""
        while True:
            await self.look()
            await self._clock.sleep(EVERY_S)

    async def look(self) -> None:
        """Measure, judge, and say what follows. What the log does not take now is said at the next look."""
        facts = await self.facts()
        live = self._leader.fleet.alerts.live
        mine = frozenset(key for alert in live.values() if self._answers_for(key := Key(alert.kind, alert.subject)))
        said, self._turns = judge(
            facts, self._rules, mine, self._turns, self._clock.monotonic(), room=LIVE_MAX - len(live)
        )
        for command in said:
            await self._say(command)

    def _answers_for(self, key: Key) -> bool:
        return key.subject == self._machine if key.kind in LOCAL else self._leader.leading

    async def _say(self, command: RaiseAlert | ClearAlert) -> None:
        try:
            accepted = await self._bus.execute(command, Caller(actor=ACTOR))
        except NotFound:
            return  # the log was exchanged; the fold follows
        except HivebusError as error:
            if error.sentence != self._trouble:
                self._trouble = error.sentence
                logger.warning("An alert waits to be told: %s", error.sentence)
            return
        self._trouble = ""
        if not accepted.events:
            return
        if isinstance(command, RaiseAlert):
            logger.warning("Alert %s: %s", command.kind, command.sentence)
        else:
            logger.info("Alert %s (%s) is cleared.", accepted.state.kind, accepted.state.subject)

    # --- what is measured ---

    async def facts(self) -> Facts:
        """What this process knows now of what it answers for."""
        found: dict[Key, Fact] = {}
        unknown: frozenset[str] = frozenset()
        self._of_disk(found)
        if self._disk.space is None:
            unknown |= LOCAL
        if self._leader.leading:
            self._of_fleet(found)
            self._of_budgets(found)
            self._of_lags(found)
            if not await self._of_queue(found):
                unknown |= FROM_VIEWS
        return Facts(found, unknown)

    def _of_disk(self, found: dict[Key, Fact]) -> None:
        space = self._disk.space
        if space is None:
            return
        used = round(space.used_percent, 1)
        sentence = f"The disk of {self._machine} is {used:g} % full, {space.free // 1_000_000} MB are free."
        level = self._disk.level
        found[Key("disk_low", self._machine)] = Fact(sentence=sentence, value=used, over=level >= Level.WARN)
        found[Key("disk_full", self._machine)] = Fact(sentence=sentence, value=used, over=level >= Level.FULL)

    def _of_fleet(self, found: dict[Key, Fact]) -> None:
        fleet = self._leader.fleet
        for agent in fleet.agents.values():
            if agent.status != "draining" and not fleet.lives(agent):
                sentence = f"Agent {agent.id} of type {agent.type} has no host: it is {agent.status}."
                found[Key("agent_lost", agent.id)] = Fact(sentence=sentence)
        since_ms = self._clock.now_ms() - self._window_ms
        for host in fleet.hosts.values():
            if not host.session and host.lost_reason and host.lost_ms > since_ms:
                found[Key("host_lost", host.id)] = Fact(sentence=f"Host {host.id} is lost: {host.lost_reason}.")

    def _of_budgets(self, found: dict[Key, Fact]) -> None:
        now_ms = self._clock.now_ms()
        for (key, period), purse in self._leader.fleet.budgets.purses.items():
            if not purse.used_up(now_ms):
                continue
            whose = "everything" if key == ALL else f"project {key!r}"
            until = "until it is changed" if purse.renews_ms is None else f"until {rfc3339(purse.renews_ms)}"
            sentence = f"The {period} budget of {whose} is spent: its tasks wait {until}."
            found[Key("budget_spent", f"{period} {key}")] = Fact(sentence=sentence)

    def _of_lags(self, found: dict[Key, Fact]) -> None:
        now_s, head = self._clock.monotonic(), self._leader.fleet.position
        recorded, applied = self._recorded.position, self._applied.position
        for kind, subject, lag, reached, target in (
            ("recorder_lag", STORE, self._recording, recorded, head),
            ("view_lag", VIEWS, self._applying, applied, recorded),
        ):
            seconds = round(lag.seconds(now_s, target, reached), 1)
            sentence = f"The {subject} is {seconds:g} s and {max(0, target - reached)} commits behind."
            found[Key(kind, subject)] = Fact(sentence=sentence, value=seconds)

    async def _of_queue(self, found: dict[Key, Fact]) -> bool:
        """False where the views cannot tell."""
        try:
            state = await self._queue(self._clock.now_ms() - self._window_ms)
        except HivebusError:
            return False
        age_s = round(state.oldest_age_s, 1)
        found[Key("queue_age", QUEUE)] = Fact(
            sentence=f"The oldest of {state.queued} queued tasks has waited for {age_s:g} s.", value=age_s
        )
        found[Key("dead_letters", QUEUE)] = Fact(
            sentence=f"{state.dead_letters} tasks failed for good in the last {self._window_ms // 1000} s.",
            value=float(state.dead_letters),
        )
        return True
