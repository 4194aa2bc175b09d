"""Alerts: raised once, acknowledged by somebody, cleared when the cause is gone; and who says so, and when."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given as sampled
from hypothesis import strategies as st
from msgspec import Struct

from core.agent import SpawnAgent, StartAgent
from core.alert import (
    AcknowledgeAlert,
    Alert,
    AlertAcknowledged,
    AlertCleared,
    AlertRaised,
    ClearAlert,
    RaiseAlert,
    alert_id,
)
from core.budget import SetBudget
from core.host import LoseHost, RegisterHost
from core.kernel.command_bus import Accepted, Caller, CommandBus
from core.kernel.commit import Commit
from core.kernel.errors import Refused, Unavailable
from core.process_managers.alerts import (
    COMMANDS_MAX,
    KINDS,
    Fact,
    Facts,
    Key,
    Rule,
    Thresholds,
    Turn,
    judge,
    rules_of,
)
from core.scheduling.fleet import Fleet
from core.scheduling.images import fleet_of, image_of
from core.services.alerts import LOCAL, SAMPLES_MAX, AlertWatch, Lag, QueueState
from core.services.disk import DiskGuard, Marks
from core.services.positions import PositionGate
from core.task import Used
from tests.core.test_disk import GB, Steps
from tests.core.test_dispatch import World
from tests.given import CODEC, NOW_MS, History, ManualClock, given

RAISED = AlertRaised(
    kind="queue_age",
    subject="queue",
    level="warning",
    category="performance",
    sentence="It waits.",
    value=301.0,
    threshold=300.0,
    unit="s",
)
GOLDEN = [
    (
        RAISED,
        'alert.raised/1 {"kind":"queue_age","subject":"queue","level":"warning","category":"performance",'
        '"sentence":"It waits.","value":301.0,"threshold":300.0,"unit":"s"}',
    ),
    (
        AlertRaised(kind="host_lost", subject="h", level="error", category="swarm", sentence="Lost."),
        'alert.raised/1 {"kind":"host_lost","subject":"h","level":"error","category":"swarm","sentence":"Lost."}',
    ),
    (AlertAcknowledged(by="ada", reason="mine"), 'alert.acknowledged/1 {"by":"ada","reason":"mine"}'),
    (AlertCleared(value=1.0), 'alert.cleared/1 {"value":1.0}'),
    (AlertCleared(), "alert.cleared/1 {}"),
]
ID = alert_id("queue_age", "queue")
RAISE = RaiseAlert(
    alert_id=ID,
    kind="queue_age",
    subject="queue",
    level="warning",
    category="performance",
    sentence="It waits.",
    value=301.0,
    threshold=300.0,
    unit="s",
)
ACKNOWLEDGED = AlertAcknowledged(by="ada", reason="mine")


# The aggregate


def test_an_alert_is_raised_once_while_it_is_live_and_counts_how_often() -> None:
    state = Alert(kind="queue_age", subject="queue", status="raised", times_raised=1)
    assert given().when(RAISE).then(RAISED) == state
    given(RAISED).when(RAISE).then()
    given(RAISED, ACKNOWLEDGED).when(RAISE).then()
    assert given(RAISED, ACKNOWLEDGED, AlertCleared()).when(RAISE).then(RAISED).times_raised == 2


def test_an_alert_is_acknowledged_by_name_with_a_reason_and_once() -> None:
    acknowledge = AcknowledgeAlert(alert_id=ID, reason="mine")
    assert given(RAISED).when(acknowledge).then(ACKNOWLEDGED).status == "acknowledged"
    given(RAISED, ACKNOWLEDGED).when(AcknowledgeAlert(alert_id=ID, reason="no, mine"), actor="bob").then()
    given(RAISED, AlertCleared()).when(acknowledge).then_raises(Refused, code="illegal_transition")


@pytest.mark.parametrize("history", [(RAISED,), (RAISED, ACKNOWLEDGED)], ids=["raised", "acknowledged"])
def test_an_alert_is_cleared_whether_somebody_looked_or_not(history: tuple[Any, ...]) -> None:
    clear = ClearAlert(alert_id=ID, value=1.0)
    assert given(*history).when(clear).then(AlertCleared(value=1.0)).status == "cleared"
    given(*history, AlertCleared()).when(clear).then()


def test_one_kind_and_subject_are_one_alert_for_ever() -> None:
    assert alert_id("queue_age", "queue") == "7982f60a-5c8e-8a3d-ba37-54b2ede028a3"
    assert alert_id("queue_age", "other") != ID != alert_id("dead_letters", "queue")


# The judgement

KEY = Key("queue_age", "queue")
RULES = {"queue_age": Rule(threshold=10.0, unit="s", raise_after_s=2.0, clear_after_s=3.0)}


def look(
    value: float | None, at_s: float, *, live: bool = False, turns: dict[Key, Turn] | None = None, **more: Any
) -> tuple[list[str], dict[Key, Turn]]:
    """What is said of one measurement, by the names of the commands."""
    facts = Facts({} if value is None else {KEY: Fact(sentence="It waits.", value=value)}, **more)
    said, on_the_way = judge(facts, RULES, frozenset({KEY} if live else ()), turns or {}, at_s)
    return [type(command).__name__ for command in said], on_the_way


def test_what_is_over_its_threshold_is_raised_after_a_while() -> None:
    said, turns = look(10.0, 0.0)
    assert (said, turns) == ([], {KEY: Turn(raising=True, since_s=0.0)})
    assert look(11.0, 1.9, turns=turns)[0] == []
    assert look(10.0, 2.0, turns=turns)[0] == ["RaiseAlert"]


def test_what_falls_back_in_between_begins_anew() -> None:
    _, turns = look(10.0, 0.0)
    _, turns = look(9.9, 1.0, turns=turns)
    assert turns == {}
    _, turns = look(10.0, 1.5, turns=turns)
    assert look(10.0, 3.4, turns=turns)[0] == []
    assert look(10.0, 3.5, turns=turns)[0] == ["RaiseAlert"]


def test_what_was_raised_is_cleared_below_a_lower_mark_and_after_a_while() -> None:
    assert look(8.0, 0.0, live=True) == ([], {})
    _, turns = look(7.9, 0.0, live=True)
    assert look(7.9, 2.9, live=True, turns=turns)[0] == []
    assert look(None, 3.0, live=True, turns=turns)[0] == ["ClearAlert"]
    # A turn to the other side is none to this one.
    assert look(7.9, 9.0, live=True, turns={KEY: Turn(raising=True, since_s=0.0)})[0] == []


def test_what_is_not_known_now_is_neither_raised_nor_cleared() -> None:
    turns = {KEY: Turn(raising=False, since_s=0.0)}
    assert look(None, 9.0, live=True, turns=turns, unknown=frozenset({"queue_age"})) == ([], {})


def test_what_was_turned_off_or_comes_from_a_newer_program_is_cleared() -> None:
    strange = Key("from_the_future", "x")
    facts = Facts({KEY: Fact(sentence="It waits.", value=99.0)})
    said, _ = judge(facts, {}, frozenset({KEY, strange}), {}, 0.0)
    assert said == [ClearAlert(alert_id=alert_id(*strange)), ClearAlert(alert_id=ID, value=99.0)]


def test_a_look_says_no_more_than_it_may() -> None:
    rules = {"agent_lost": Rule()}
    lost = {Key("agent_lost", f"a{number:03}"): Fact(sentence="Lost.") for number in range(COMMANDS_MAX + 5)}
    said, _ = judge(Facts(lost), rules, frozenset(), {}, 0.0)
    assert len(said) == COMMANDS_MAX
    said, _ = judge(Facts(lost), rules, frozenset(), {}, 0.0, room=3)
    assert [command.alert_id for command in said] == [alert_id("agent_lost", f"a00{number}") for number in range(3)]


def test_every_kind_has_a_rule_unless_it_is_turned_off() -> None:
    assert rules_of(Thresholds()).keys() == KINDS.keys()
    off = Thresholds(queue_age_s=0, dead_letters=0, agent_lost_s=0, lag_s=0)
    assert rules_of(off).keys() == {"host_lost", "budget_spent", *LOCAL}
    assert rules_of(Thresholds(window_s=0)).keys() == KINDS.keys() - {"dead_letters", "host_lost"}


@sampled(
    st.lists(
        st.tuples(st.floats(0, 5), st.sampled_from([None, 0.0, 8.0, 9.0, 10.0, 50.0]), st.booleans(), st.booleans()),
        max_size=60,
    )
)
def test_whatever_is_measured_an_alert_is_raised_acknowledged_and_cleared_in_turn(
    looks: Sequence[tuple[float, float | None, bool, bool]],
) -> None:
    """And a leader that changes at any look, forgetting what was on its way, changes nothing about that."""
    history, turns, now_s = History(), dict[Key, Turn](), 0.0
    fleet = Fleet()
    for passed_s, value, somebody_looks, leader_changes in looks:
        now_s += passed_s
        live = frozenset(Key(alert.kind, alert.subject) for alert in fleet.alerts.live.values())
        facts = Facts({KEY: Fact(sentence="It waits.", value=value)} if value is not None else {})
        said, turns = judge(facts, RULES, live, {} if leader_changes else turns, now_s)
        # Whoever was the leader before says the same once more.
        for command in [*said, *said]:
            history.execute(command)
        if somebody_looks and fleet.alerts.live:
            with contextlib.suppress(Refused):
                history.execute(AcknowledgeAlert(alert_id=ID, reason="mine"))
        for commit in history.commits:
            fleet.fold(commit)
    words = [type(event) for commit in history.commits for event in commit.events]
    for before, after in zip([AlertCleared, *words], words, strict=False):
        allowed = {
            AlertCleared: {AlertRaised},
            AlertRaised: {AlertAcknowledged, AlertCleared},
            AlertAcknowledged: {AlertCleared},
        }
        assert after in allowed[before], words
    state = history.states.get(("alert", ID))
    assert bool(fleet.alerts.live) == (state is not None and state.live)
    assert fleet_of(image_of(fleet)).alerts == fleet.alerts


# The watch


class Leading:
    """A scheduler that leads, or does not."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.leading = True


class Watched:
    """A watch over a log in memory, and what it looks at."""

    def __init__(self) -> None:
        self.world = World()
        self.clock: ManualClock = self.world.clock
        self.leader = Leading()
        self.queue = QueueState(oldest_age_s=0.0, queued=0, dead_letters=0)
        self.views_answer = True
        self.disk = Steps(total=100 * GB, free=50 * GB)
        self.guard = DiskGuard(self.disk, Marks(), self.clock)
        self.recorded, self.applied = PositionGate(), PositionGate()
        self.subjects: tuple[str, ...] = ("queue", "store", "views", "box", "h")
        self.watch = self.another()

    def another(self, bus: CommandBus | None = None) -> AlertWatch:
        """The watch of another process on the same log."""
        return AlertWatch(
            bus or self.world.bus,
            self.leader,
            rules_of(Thresholds(dead_letters=2, window_s=60.0)),
            self.clock,
            queue=self.tell,
            disk=self.guard,
            machine="box",
            window_s=60.0,
            recorded=self.recorded,
            applied=self.applied,
        )

    async def tell(self, since_ms: int) -> QueueState:
        assert since_ms == self.clock.now_ms() - 60_000
        if not self.views_answer:
            raise Unavailable("The views are away.")
        return self.queue

    async def look(self, *, after_s: float = 1.0) -> list[tuple[str, str]]:
        """Measure so much later; what stands on the log then, by kind and event."""
        self.clock.advance(after_s)
        await self.guard.look()
        await self.watch.look()
        commits = self.fold()
        return [(type(event).__name__, self.kind_of(c.aggregate_id)) for c in commits for event in c.events]

    def kind_of(self, id_: str) -> str:
        return next(kind for kind in KINDS for subject in self.subjects if alert_id(kind, subject) == id_)

    async def does(self, command: Struct) -> Accepted:
        """Something happens, and the leader folds it."""
        accepted = await self.world.bus.execute(command, Caller(actor="ada"))
        self.fold()
        return accepted

    def fold(self) -> list[Commit]:
        """What the leader has not folded yet."""
        entries = self.world.log._entries[self.leader.fleet.position :]
        commits = [CODEC.decode(entry) for entry in entries if entry is not None]
        for commit in commits:
            self.leader.fleet.fold(commit)
        # Nothing is behind, unless a test says so.
        self.recorded.advance(self.leader.fleet.position)
        self.applied.advance(self.leader.fleet.position)
        return commits


async def test_the_leader_raises_what_waits_too_long_and_clears_it_when_it_waits_no_more() -> None:
    watched = Watched()
    watched.queue = QueueState(oldest_age_s=301.0, queued=3, dead_letters=2)
    assert await watched.look() == [("AlertRaised", "dead_letters"), ("AlertRaised", "queue_age")]
    assert await watched.look() == []
    watched.queue = QueueState(oldest_age_s=0.0, queued=0, dead_letters=1)
    assert await watched.look() == []
    assert await watched.look(after_s=10.0) == [("AlertCleared", "dead_letters"), ("AlertCleared", "queue_age")]


async def test_who_does_not_lead_says_nothing_of_the_fleet_and_of_its_own_disk_what_it_sees() -> None:
    watched = Watched()
    watched.queue = QueueState(oldest_age_s=301.0, queued=3, dead_letters=0)
    await watched.look()
    watched.leader.leading = False
    watched.queue = QueueState(oldest_age_s=301.0, queued=3, dead_letters=2)
    watched.disk.leave(4 * GB)
    assert await watched.look() == [("AlertRaised", "disk_full"), ("AlertRaised", "disk_low")]
    watched.disk.leave(50 * GB)
    await watched.look()
    assert await watched.look(after_s=10.0) == [("AlertCleared", "disk_full"), ("AlertCleared", "disk_low")]


async def test_a_new_leader_raises_nothing_twice_and_does_not_clear_what_it_cannot_see() -> None:
    watched = Watched()
    watched.queue = QueueState(oldest_age_s=301.0, queued=3, dead_letters=0)
    await watched.look()
    watched.watch = watched.another()
    watched.views_answer = False
    assert await watched.look() == await watched.look(after_s=60.0) == []
    watched.views_answer = True
    assert await watched.look() == []
    # One that has not folded the alert yet, of a process with a cache of its own.
    watched.leader.fleet = Fleet()
    bus = watched.world.bus
    watched.watch = watched.another(
        CommandBus(watched.world.log, bus._registry, watched.world.codec, watched.clock, watched.world.store)
    )
    await watched.look()
    assert await watched.world.log.head() == 1


async def test_a_lost_host_is_told_until_it_is_back_or_long_gone_and_an_agent_without_one_after_a_while() -> None:
    watched = Watched()
    register = RegisterHost(host_id="h", name="box", session="s1", executors=["command"], slots=1)
    await watched.does(register)
    agent_id = (await watched.does(SpawnAgent(type="shell", name="shelly"))).aggregate_id
    await watched.does(StartAgent(agent_id=agent_id, host_id="h", session="s1", term=0))
    watched.subjects += (agent_id,)
    assert await watched.look() == []
    await watched.does(LoseHost(host_id="h", session="s1", reason="no beat for 20 s"))
    assert await watched.look() == [("AlertRaised", "host_lost")]
    assert await watched.look(after_s=58.0) == []
    assert await watched.look() == [("AlertCleared", "host_lost")]
    assert await watched.look() == [("AlertRaised", "agent_lost")]
    await watched.does(msgspec.structs.replace(register, session="s2"))
    await watched.does(StartAgent(agent_id=agent_id, host_id="h", session="s2", term=0))
    assert await watched.look() == [("AlertCleared", "agent_lost")]


async def test_a_spent_budget_is_told_until_its_day_is_over_or_it_is_raised() -> None:
    watched = Watched()
    spent = SetBudget(key="p", period="day", tokens=5)
    await watched.does(spent)
    await watched.does(SetBudget(key="*", period="total", wall_s=1))
    watched.subjects += ("day p", "total *")
    assert await watched.look() == []
    budgets = watched.leader.fleet.budgets
    budgets.spend(Used(project="p", tokens=5, wall_ms=1000), watched.clock.now_ms())
    assert await watched.look() == [("AlertRaised", "budget_spent")] * 2
    await watched.does(msgspec.structs.replace(spent, tokens=6))
    assert await watched.look() == [("AlertCleared", "budget_spent")]
    assert [alert.subject for alert in watched.leader.fleet.alerts.live.values()] == ["total *"]


async def test_a_store_that_stands_still_while_the_log_grows_is_told_after_a_while() -> None:
    watched = Watched()
    watched.leader.fleet.position = 7
    assert await watched.look() == []
    watched.leader.fleet.position = 9
    watched.recorded, watched.applied = PositionGate(7), PositionGate(7)
    watched.watch = watched.another()
    await watched.watch.look()
    assert watched.leader.fleet.alerts.live == {}
    watched.clock.advance(30.0)
    [raised] = [c for c in await said_by(watched.watch, watched) if isinstance(c, RaiseAlert)]
    assert (raised.kind, raised.value, raised.sentence) == (
        "recorder_lag",
        30.0,
        "The store is 30 s and 2 commits behind.",
    )


async def said_by(watch: AlertWatch, watched: Watched) -> Sequence[Any]:
    facts = await watch.facts()
    return judge(facts, rules_of(Thresholds()), frozenset(), {}, watched.clock.monotonic())[0]


async def test_what_the_log_does_not_take_is_said_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    watched.queue = QueueState(oldest_age_s=301.0, queued=1, dead_letters=0)

    async def away(*_: Any, **__: Any) -> Any:
        raise Unavailable("The broker is away.")

    with monkeypatch.context() as patch:
        patch.setattr(watched.world.log, "append", away)
        assert await watched.look() == []
    assert await watched.look() == [("AlertRaised", "queue_age")]


def test_a_lag_is_how_long_the_next_commit_has_been_there() -> None:
    lag = Lag()
    assert lag.seconds(0.0, 5, 5) == 0.0
    assert lag.seconds(1.0, 6, 5) == 0.0
    assert lag.seconds(3.0, 9, 5) == 2.0
    assert lag.seconds(4.0, 9, 6) == 1.0
    assert lag.seconds(5.0, 9, 9) == 0.0
    for look_ in range(2 * SAMPLES_MAX):
        lag.seconds(float(look_), 10 + look_, 9)
    assert len(lag._samples) == SAMPLES_MAX
    assert lag.seconds(2_000.0, 10_000, 9) == 2_000.0
    assert lag.seconds(2_001.0, 10_000, 10_000) == 0.0


async def test_who_acknowledged_it_stands_on_the_log() -> None:
    watched = Watched()
    watched.queue = QueueState(oldest_age_s=301.0, queued=1, dead_letters=0)
    await watched.look()
    command = AcknowledgeAlert(alert_id=ID, reason="mine")
    accepted = await watched.world.bus.execute(command, Caller(actor="ada"))
    assert accepted.events == [ACKNOWLEDGED]
    assert accepted.time_ms > NOW_MS
