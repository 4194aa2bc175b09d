"""The alert: something about the system that somebody should look at. It is raised, acknowledged, and cleared.

There is one of a kind and a subject: its id follows from both, so that whoever leads raises it once. It is cleared when
its cause is gone, acknowledged or not, and raised again when the cause comes back.
"""

from __future__ import annotations

from typing import Annotated, Literal, assert_never

from msgspec import Meta, Struct
from msgspec.structs import replace

from core.kernel.commit import Event, Moment
from core.kernel.errors import Refused
from core.kernel.ids import named
from core.kernel.registry import Aggregate, Context, Route, Scope

alert = Aggregate("alert")

Kind = Literal[
    "queue_age",
    "dead_letters",
    "agent_lost",
    "host_lost",
    "budget_spent",
    "recorder_lag",
    "view_lag",
    "disk_low",
    "disk_full",
]
Level = Literal["info", "warning", "error", "critical"]
Category = Literal["system", "performance", "resource", "security", "agent", "task", "swarm"]
Status = Literal["raised", "acknowledged", "cleared"]


# --- events -----------------------------------------------------------------------------------------------------------


@alert.event("alert.raised")
class AlertRaised(Event, frozen=True):
    """Something is not as it should be: `sentence` says what; `value` is measured against `threshold`, in `unit`."""

    kind: str
    subject: str
    level: Level
    category: Category
    sentence: str
    value: float | None = None
    threshold: float | None = None
    unit: str | None = None


@alert.event("alert.acknowledged")
class AlertAcknowledged(Event, frozen=True):
    """Somebody takes care of it, and says how."""

    by: str
    reason: str


@alert.event("alert.cleared")
class AlertCleared(Event, frozen=True):
    """The cause is gone."""

    value: float | None = None


AlertEvent = AlertRaised | AlertAcknowledged | AlertCleared


# --- state ------------------------------------------------------------------------------------------------------------


class Alert(Struct, frozen=True, kw_only=True):
    """Where it stands, and how often it was raised."""

    kind: str
    subject: str
    status: Status
    times_raised: int

    @property
    def live(self) -> bool:
        """Whether its cause is there."""
        return self.status != "cleared"


@alert.evolves
def evolve(state: Alert | None, event: AlertEvent, moment: Moment) -> Alert:
    """The fold of an alert."""
    if isinstance(event, AlertRaised):
        before = 0 if state is None else state.times_raised
        return Alert(kind=event.kind, subject=event.subject, status="raised", times_raised=before + 1)
    assert state is not None, "the first event of an alert is alert.raised"
    match event:
        case AlertAcknowledged():
            return replace(state, status="acknowledged")
        case AlertCleared():
            return replace(state, status="cleared")
        case _:
            assert_never(event)


# --- commands ---------------------------------------------------------------------------------------------------------


def alert_id(kind: str, subject: str) -> str:
    """The id of the alert of a kind about a subject."""
    return named("alert", f"{kind} {subject}")


class RaiseAlert(Struct, frozen=True, kw_only=True):
    """Say that something is not as it should be."""

    alert_id: str
    kind: str
    subject: str
    level: Level
    category: Category
    sentence: str
    value: float | None = None
    threshold: float | None = None
    unit: str | None = None


@alert.decides("alert.raise", scope=Scope.INTERNAL, upserts=True)
def raise_(command: RaiseAlert, state: Alert | None, context: Context) -> list[AlertEvent]:
    """One that is live is not raised twice."""
    if state is not None and state.live:
        return []
    return [
        AlertRaised(
            kind=command.kind,
            subject=command.subject,
            level=command.level,
            category=command.category,
            sentence=command.sentence,
            value=command.value,
            threshold=command.threshold,
            unit=command.unit,
        )
    ]


class ClearAlert(Struct, frozen=True, kw_only=True):
    """Say that the cause is gone."""

    alert_id: str
    value: float | None = None


@alert.decides("alert.clear", scope=Scope.INTERNAL)
def clear(command: ClearAlert, state: Alert, context: Context) -> list[AlertEvent]:
    """Only what is live is cleared."""
    return [AlertCleared(value=command.value)] if state.live else []


class AcknowledgeAlert(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Acknowledge an alert: say that you take care of it, and how. It stays until its cause is gone."""

    alert_id: Annotated[str, Meta(min_length=1, max_length=64)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]


@alert.decides(
    "alert.acknowledge",
    route=Route("POST", "/api/alerts/{alert_id}/acknowledge", 202),
    finishes=True,
    faults={"illegal_transition": Refused},
)
def acknowledge(command: AcknowledgeAlert, state: Alert, context: Context) -> list[AlertEvent]:
    """Twice is once; the first word counts."""
    if not state.live:
        raise Refused("The alert is cleared: its cause is gone.", remedy="List those that are live: GET /api/alerts.")
    if state.status == "acknowledged":
        return []
    return [AlertAcknowledged(by=context.actor, reason=command.reason)]
