"""When an alert is raised and when it is cleared: from what is measured, what is live already, and rules.

A kind has a line in KINDS and, unless it is turned off, a rule; whoever measures something new adds a line there and a
fact in core/services/alerts.py. Nothing flaps: what raises must last for `raise_after_s`; what clears must lie below a
lower mark, and last for `clear_after_s`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct, field

from core.alert import (
    AlertAcknowledged,
    AlertCleared,
    AlertRaised,
    Category,
    ClearAlert,
    Level,
    RaiseAlert,
    alert_id,
)
from core.kernel.commit import Commit

# Of the threshold: what has been raised is cleared below it.
CLEAR_SHARE = 0.8
CLEAR_AFTER_S = 10.0
# Live at once, and new in one look; what is beyond is raised when others are cleared.
LIVE_MAX = 1_000
COMMANDS_MAX = 100
SENTENCE_CHARS_MAX = 500

KINDS: Mapping[str, tuple[Category, Level]] = {
    "queue_age": ("performance", "warning"),
    "dead_letters": ("task", "error"),
    "agent_lost": ("agent", "error"),
    "host_lost": ("swarm", "error"),
    "budget_spent": ("resource", "warning"),
    "recorder_lag": ("system", "error"),
    "view_lag": ("system", "warning"),
    "disk_low": ("resource", "warning"),
    "disk_full": ("resource", "critical"),
}
# What each process knows of its own machine; the others are the leader's.
LOCAL: frozenset[str] = frozenset({"disk_low", "disk_full"})


class Key(NamedTuple):
    """Which alert. The log may hold a kind that a newer program knows."""

    kind: str
    subject: str


class Rule(Struct, frozen=True, kw_only=True):
    """When a kind is raised. `threshold` is None where whoever measures says by itself whether it is too much."""

    threshold: float | None = None
    unit: str | None = None
    raise_after_s: float = 0.0
    clear_after_s: float = CLEAR_AFTER_S


class Fact(Struct, frozen=True, kw_only=True):
    """What is measured now, and the sentence that an alert would say. `over` where there is no threshold."""

    sentence: str
    value: float | None = None
    over: bool = True


class Facts(Struct, frozen=True):
    """What was found. An alert of which there is no fact has no cause, unless its kind is unknown now."""

    found: Mapping[Key, Fact]
    unknown: frozenset[str] = frozenset()


class Turn(NamedTuple):
    """Since when (seconds of the monotonic clock) something is on its way to be raised, or to be cleared."""

    raising: bool
    since_s: float


class Thresholds(Struct, frozen=True, kw_only=True):
    """What users set; 0 turns a kind off. `window_s` is how far back dead letters and lost hosts count."""

    queue_age_s: float = 300.0
    dead_letters: int = 10
    window_s: float = 3600.0
    agent_lost_s: float = 60.0
    lag_s: float = 30.0


def rules_of(thresholds: Thresholds) -> dict[str, Rule]:
    """The rules of all kinds that are not turned off."""
    lag = Rule(threshold=thresholds.lag_s, unit="s")
    rules: dict[str, Rule] = {
        "queue_age": Rule(threshold=thresholds.queue_age_s, unit="s"),
        "dead_letters": Rule(threshold=float(thresholds.dead_letters), unit="tasks"),
        "agent_lost": Rule(raise_after_s=thresholds.agent_lost_s, clear_after_s=0.0),
        "host_lost": Rule(clear_after_s=0.0),
        "budget_spent": Rule(clear_after_s=0.0),
        "recorder_lag": lag,
        "view_lag": lag,
        "disk_low": Rule(unit="%"),
        "disk_full": Rule(unit="%"),
    }
    off = {kind for kind, rule in rules.items() if rule.threshold == 0}
    if not thresholds.agent_lost_s:
        off.add("agent_lost")
    if not thresholds.window_s:
        off |= {"dead_letters", "host_lost"}
    return {kind: rule for kind, rule in rules.items() if kind not in off}


class LiveAlert(Struct):
    """An alert whose cause is there, as the log tells it."""

    kind: str
    subject: str
    acknowledged: bool = False


class Alerts(Struct):
    """The fold of all alerts: those that are live, by id."""

    live: dict[str, LiveAlert] = field(default_factory=dict)

    def fold(self, commit: Commit, event: Any) -> None:
        """Apply one event of an alert."""
        match event:
            case AlertRaised():
                self.live[commit.aggregate_id] = LiveAlert(event.kind, event.subject)
            case AlertAcknowledged() if commit.aggregate_id in self.live:
                self.live[commit.aggregate_id].acknowledged = True
            case AlertCleared():
                self.live.pop(commit.aggregate_id, None)
            case _:
                pass

    def by_kind(self) -> dict[str, int]:
        """How many of each kind are live; kinds of a newer program are left out."""
        counts = dict.fromkeys(KINDS, 0)
        for alert in self.live.values():
            if alert.kind in counts:
                counts[alert.kind] += 1
        return counts


def judge(
    facts: Facts,
    rules: Mapping[str, Rule],
    live: frozenset[Key],
    turns: Mapping[Key, Turn],
    now_s: float,
    *,
    room: int = COMMANDS_MAX,
) -> tuple[list[RaiseAlert | ClearAlert], dict[Key, Turn]]:
    """What to say now, and what is on its way.

    `live`: the alerts that the caller answers for; `room`: so many new ones at most.
    """
    said: list[RaiseAlert | ClearAlert] = []
    on_the_way: dict[Key, Turn] = {}
    for key in sorted(facts.found.keys() | live):
        if key.kind in facts.unknown:
            continue
        rule, fact, raising = rules.get(key.kind), facts.found.get(key), key not in live
        if not _turns(rule, fact, raising=raising):
            continue
        turn = turns.get(key)
        if turn is None or turn.raising is not raising:
            turn = Turn(raising, now_s)
        on_the_way[key] = turn
        after_s = 0.0 if rule is None else rule.raise_after_s if raising else rule.clear_after_s
        if now_s - turn.since_s < after_s or len(said) >= COMMANDS_MAX:
            continue
        if not raising:
            said.append(ClearAlert(alert_id=alert_id(*key), value=None if fact is None else fact.value))
        elif room > 0 and rule is not None and fact is not None:
            room -= 1
            said.append(_raised(key, rule, fact))
    return said, on_the_way


def _turns(rule: Rule | None, fact: Fact | None, *, raising: bool) -> bool:
    """Whether an alert that is not live should be raised, or one that is should be cleared."""
    if rule is None or fact is None:
        return not raising
    if rule.threshold is None or fact.value is None:
        return fact.over is raising
    return fact.value >= rule.threshold if raising else fact.value < rule.threshold * CLEAR_SHARE


def _raised(key: Key, rule: Rule, fact: Fact) -> RaiseAlert:
    category, level = KINDS[key.kind]
    return RaiseAlert(
        alert_id=alert_id(*key),
        kind=key.kind,
        subject=key.subject,
        level=level,
        category=category,
        sentence=fact.sentence[:SENTENCE_CHARS_MAX],
        value=fact.value,
        threshold=rule.threshold,
        unit=rule.unit,
    )
