"""The schedule: a task that is submitted again and again, by a cron expression or every so many seconds.

Each run is a task of its own. What became of a due time stands here: a run was submitted, or it was skipped and why;
so a scheduler that begins anew goes on behind the last of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict, assert_never

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from core import cron
from core.kernel import answers
from core.kernel.commit import Event, Moment
from core.kernel.errors import Refused, Unprocessable
from core.kernel.ids import named
from core.kernel.registry import Aggregate, Context, Route, Scope
from core.kernel.times import parse_rfc3339, rfc3339
from core.limit import Key
from core.task import TASK_FAULTS, SubmitTask, Time, submit

schedule = Aggregate("schedule")

Missed = Literal["skip", "run_once", "run_all"]
Overlap = Literal["skip", "allow"]
SkipReason = Literal["missed", "overlap", "too_many", "refused"]
EVERY_S_MAX = 366 * 86_400
# What says when one task runs says nothing of the runs of a schedule.
ONCE_ONLY = ("not_before", "deadline", "depends_on", "parent", "ref")


@schedule.event("schedule.set")
class ScheduleSet(Event, frozen=True):
    """From here on these are its times and its task, as its user said them.

    `after_ms`, where one of its name was removed while its clock was ahead: what was dealt with until then.
    """

    name: str
    task: dict[str, Any]
    timezone: str
    missed: Missed
    overlap: Overlap
    cron: str | None = None
    every_s: int | None = None
    until_ms: int | None = None
    after_ms: int | None = None


@schedule.event("schedule.paused")
class SchedulePaused(Event, frozen=True):
    """Nothing is submitted until it is resumed."""

    reason: str | None = None


@schedule.event("schedule.resumed")
class ScheduleResumed(Event, frozen=True):
    """It goes on with the next time; those that came while it was paused are not made up for."""


@schedule.event("schedule.removed")
class ScheduleRemoved(Event, frozen=True):
    """There is no such schedule any more, until one is set under its name."""


@schedule.event("schedule.fired")
class ScheduleFired(Event, frozen=True):
    """The run of this time was submitted."""

    due_ms: int
    task_id: str


@schedule.event("schedule.skipped")
class RunsSkipped(Event, frozen=True):
    """What was due up to this time is not run, and why."""

    due_ms: int
    reason: SkipReason
    error: str | None = None


ScheduleEvent = ScheduleSet | SchedulePaused | ScheduleResumed | ScheduleRemoved | ScheduleFired | RunsSkipped


class Schedule(Struct, frozen=True, kw_only=True):
    """Its newest times and task, and until when its times are dealt with (`cursor_ms`)."""

    spec: ScheduleSet
    status: Literal["active", "paused", "removed"]
    set_ms: int
    cursor_ms: int


@schedule.evolves
def evolve(state: Schedule | None, event: ScheduleEvent, moment: Moment) -> Schedule:
    """The fold of a schedule. Its cursor never goes back, whatever the clock does."""
    if isinstance(event, ScheduleSet):
        # Whoever forgets the schedules that were removed folds to the same state: what counts of them is in the event.
        cursor_ms = max(moment.time_ms, event.after_ms or 0, state.cursor_ms if state is not None else 0)
        status: Literal["active", "paused"] = "paused" if state is not None and state.status == "paused" else "active"
        return Schedule(spec=event, status=status, set_ms=moment.time_ms, cursor_ms=cursor_ms)
    assert state is not None, "the first event of a schedule is schedule.set"
    match event:
        case SchedulePaused():
            return replace(state, status="paused")
        case ScheduleResumed():
            return replace(state, status="active", cursor_ms=max(state.cursor_ms, moment.time_ms))
        case ScheduleRemoved():
            return replace(state, status="removed")
        case ScheduleFired() | RunsSkipped():
            return replace(state, cursor_ms=max(state.cursor_ms, event.due_ms))
        case _:
            assert_never(event)


def next_due_ms(spec: ScheduleSet, set_ms: int, after_ms: int) -> int | None:
    """The first due time after a time; None where there is none any more. An interval counts from when it was set."""
    if spec.cron is not None:
        found = cron.next_after(cron.parse(spec.cron), cron.zone_of(spec.timezone), after_ms)
    else:
        step_ms = (spec.every_s or 1) * 1000
        found = set_ms + (max(0, after_ms - set_ms) // step_ms + 1) * step_ms
    return None if found is None or (spec.until_ms is not None and found > spec.until_ms) else found


def last_due_ms(spec: ScheduleSet, set_ms: int, until_ms: int, after_ms: int) -> int | None:
    """The last due time that is not after `until_ms`; None where none lies after `after_ms`."""
    until_ms = until_ms if spec.until_ms is None else min(until_ms, spec.until_ms)
    if spec.cron is not None:
        return cron.last_until(cron.parse(spec.cron), cron.zone_of(spec.timezone), until_ms, after_ms)
    step_ms = (spec.every_s or 1) * 1000
    found = set_ms + (until_ms - set_ms) // step_ms * step_ms
    return found if found > max(after_ms, set_ms) else None


def schedule_id(name: str) -> str:
    """The aggregate's id: a hash, for a subject is never text of a user."""
    return named("schedule", name)


class Scheduling(TypedDict):
    """When the schedule is due next; null where it is not."""

    name: str
    next_run_at: answers.Time | None


def _answer(command: Any, accepted: Any) -> Scheduling:
    state: Schedule = accepted.state
    due_ms = next_due_ms(state.spec, state.set_ms, state.cursor_ms) if state.status == "active" else None
    return {"name": state.spec.name, "next_run_at": rfc3339(due_ms)}


# --- commands of callers ---


class SetSchedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Set a schedule: submit a task by a cron expression (five fields, or @daily) or every so many seconds.

    Runs that were missed, because nothing ran or it was more than a minute late, are left out (`skip`), made up for by
    one (`run_once`) or all (`run_all`, at most 100). While a run has not ended the next one is skipped, or not
    (`overlap`). After `until` nothing is due any more.
    """

    name: Key
    task: SubmitTask
    cron: Annotated[str, Meta(pattern=r"^[@A-Za-z0-9*/, -]{1,200}$(?!\n)")] | None = None
    every_s: Annotated[int, Meta(ge=1, le=EVERY_S_MAX)] | None = None
    timezone: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_+/-]{1,64}$(?!\n)")] = "UTC"
    missed: Missed = "run_once"
    overlap: Overlap = "skip"
    until: Time | None = None


@schedule.decides(
    "schedule.set",
    route=Route("PUT", "/api/schedules/{name}", 202),
    upserts=True,
    target="name",
    identify=schedule_id,
    answer=_answer,
    faults={
        **TASK_FAULTS,
        "cron_or_every": Unprocessable,
        "run_all_overlaps": Unprocessable,
        "invalid_cron": Unprocessable,
        "unknown_timezone": Unprocessable,
        "not_for_schedules": Unprocessable,
        "never_fires": Unprocessable,
    },
)
def set_schedule(command: SetSchedule, state: Schedule | None, context: Context) -> list[ScheduleEvent]:
    """Set to what it is already, it is no change. What could never run is refused."""
    if (command.cron is None) == (command.every_s is None):
        raise Unprocessable(
            "A schedule has either cron or every_s.", code="cron_or_every", pointer="/cron", remedy="Give one of both."
        )
    if command.missed == "run_all" and command.overlap == "skip":
        raise Unprocessable(
            "Missed runs come all at once: skipping those that overlap would skip all but one.",
            code="run_all_overlaps",
            pointer="/missed",
            remedy='Add "overlap": "allow", or choose "run_once".',
        )
    _check_times(command)
    _check_task(command.task, context)
    until_ms = None if command.until is None else parse_rfc3339(command.until, "/until")
    asked = ScheduleSet(
        name=command.name,
        task=said(command.task),
        timezone=command.timezone,
        missed=command.missed,
        overlap=command.overlap,
        cron=command.cron,
        every_s=command.every_s,
        until_ms=until_ms,
    )
    removed = state is not None and state.status == "removed"
    if state is not None and not removed and replace(state.spec, after_ms=None) == asked:
        return []
    if next_due_ms(asked, context.now_ms, context.now_ms) is None:
        raise Unprocessable(
            "This schedule never fires: no time that it names comes any more.",
            code="never_fires",
            pointer="/until" if command.until is not None else "/cron",
            remedy="Check day and month, and `until`.",
        )
    if state is not None and removed and state.cursor_ms > context.now_ms:
        return [replace(asked, after_ms=state.cursor_ms)]
    return [asked]


def _check_times(command: SetSchedule) -> None:
    for field, check in (("timezone", cron.zone_of), ("cron", cron.parse)):
        text = getattr(command, field)
        try:
            if text is not None:
                check(text)
        except ValueError as error:
            code = "unknown_timezone" if field == "timezone" else "invalid_cron"
            remedy = "An IANA name, such as Europe/Berlin." if field == "timezone" else "Such as 30 6 * * mon-fri."
            raise Unprocessable(f"{str(error).capitalize()}.", code=code, pointer=f"/{field}", remedy=remedy) from error


def _check_task(task: SubmitTask, context: Context) -> None:
    """What could not be submitted now is refused, with the pointer into the task."""
    for field in ONCE_ONLY:
        if getattr(task, field) not in (None, []):
            raise Unprocessable(
                f"{field} is about one task; each run of a schedule is another.",
                code="not_for_schedules",
                pointer=f"/task/{field}",
                remedy=f"Leave {field} out.",
            )
    try:
        submit(task, None, context)
    except Unprocessable as error:
        error.pointer = f"/task{error.pointer or ''}"
        raise


def said(task: SubmitTask) -> dict[str, Any]:
    """The fields of a task that say something."""
    silent: dict[str, Any] = msgspec.to_builtins(SubmitTask(type="any", parameters={}))
    values: dict[str, Any] = msgspec.to_builtins(task)
    return {name: value for name, value in values.items() if name in ("type", "parameters") or value != silent[name]}


def known(state: Schedule | None, name: str) -> Schedule:
    """Raises Refused for a schedule that was removed."""
    if state is None or state.status == "removed":
        raise Refused(f"The schedule {name[:100]!r} was removed.", code="schedule_removed", remedy="Set it again.")
    return state


class PauseSchedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pause a schedule: nothing is submitted until it is resumed, and nothing is made up for then."""

    name: Key
    reason: Annotated[str, Meta(max_length=500)] | None = None


@schedule.decides(
    "schedule.pause",
    route=Route("POST", "/api/schedules/{name}/pause", 202),
    target="name",
    identify=schedule_id,
    answer=_answer,
    faults={"schedule_removed": Refused},
)
def pause(command: PauseSchedule, state: Schedule, context: Context) -> list[ScheduleEvent]:
    """Twice is once."""
    return [] if known(state, command.name).status == "paused" else [SchedulePaused(reason=command.reason)]


class ResumeSchedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Resume a paused schedule with its next time."""

    name: Key


@schedule.decides(
    "schedule.resume",
    route=Route("POST", "/api/schedules/{name}/resume", 202),
    target="name",
    identify=schedule_id,
    answer=_answer,
    faults={"schedule_removed": Refused},
)
def resume(command: ResumeSchedule, state: Schedule, context: Context) -> list[ScheduleEvent]:
    """Twice is once."""
    return [ScheduleResumed()] if known(state, command.name).status == "paused" else []


class RemoveSchedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Remove a schedule. Runs that were submitted go on."""

    name: Key


@schedule.decides(
    "schedule.remove",
    route=Route("DELETE", "/api/schedules/{name}", 202),
    target="name",
    identify=schedule_id,
    answer=_answer,
)
def remove(command: RemoveSchedule, state: Schedule, context: Context) -> list[ScheduleEvent]:
    """Twice is once."""
    return [] if state.status == "removed" else [ScheduleRemoved()]


# --- commands of the scheduler ---


class FireSchedule(Struct, frozen=True, kw_only=True):
    """The run of this time is on the log."""

    schedule_id: str
    due_ms: int
    task_id: str


@schedule.decides("schedule.fire", scope=Scope.INTERNAL)
def fire(command: FireSchedule, state: Schedule, context: Context) -> list[ScheduleEvent]:
    """A time is dealt with once, and not behind the end of its schedule."""
    behind = state.status == "removed" or command.due_ms <= state.cursor_ms
    return [] if behind else [ScheduleFired(due_ms=command.due_ms, task_id=command.task_id)]


class SkipRuns(Struct, frozen=True, kw_only=True):
    """What is due up to this time is not run."""

    schedule_id: str
    due_ms: int
    reason: SkipReason
    error: str | None = None


@schedule.decides("schedule.skip", scope=Scope.INTERNAL)
def skip(command: SkipRuns, state: Schedule, context: Context) -> list[ScheduleEvent]:
    """A time is dealt with once, and not behind the end of its schedule."""
    behind = state.status == "removed" or command.due_ms <= state.cursor_ms
    return [] if behind else [RunsSkipped(due_ms=command.due_ms, reason=command.reason, error=command.error)]
