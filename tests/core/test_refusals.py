from __future__ import annotations

import pytest

from adapters.memory.log import MemoryLog
from core.kernel.commit import Entry, Event, split_subject
from core.kernel.errors import Refused
from core.kernel.outcomes import CommandRefused, CommandUnchanged, RefusalsSuppressed
from core.kernel.refusals import ACTORS_MAX, PER_SECOND_MAX, RefusalLedger
from core.kernel.registry import Context
from tests.given import CODEC, CORRELATION, NOW_MS, ManualClock, caller, command_id

REFUSAL = Refused("It is over.", code="stale_fence", pointer="/fence", remedy="Stop.")
EVENT = CommandRefused(
    command="task.complete", target="t", code="stale_fence", sentence="It is over.", pointer="/fence"
)
# Each event beside its record in logs out there: it is written and read so for ever.
GOLDEN = [
    (CommandUnchanged(), "command.unchanged/1 {}"),
    (
        CommandRefused(
            command="task.cancel", target="t", code="illegal_transition", sentence="No.", pointer="/task_id"
        ),
        'command.refused/1 {"command":"task.cancel","target":"t","code":"illegal_transition",'
        '"sentence":"No.","pointer":"/task_id"}',
    ),
    (
        CommandRefused(command="task.cancel", target="t", code="x", sentence="No."),
        'command.refused/1 {"command":"task.cancel","target":"t","code":"x","sentence":"No."}',
    ),
    (RefusalsSuppressed(count=12), 'refusals.suppressed/1 {"count":12}'),
]


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ledger(log: MemoryLog, clock: ManualClock) -> RefusalLedger:
    return RefusalLedger(log, CODEC, clock)


async def refuse(ledger: RefusalLedger, times: int = 1, *, actor: str = "ada", on_behalf_of: str | None = None) -> None:
    context = Context(NOW_MS - 5, "t", command_id(1), actor, CORRELATION)
    for _ in range(times):
        who = caller(actor=actor, on_behalf_of=on_behalf_of)
        await ledger.record(REFUSAL, "task.complete", "t", who, context, "fingerprint")


async def entries_of(log: MemoryLog) -> list[Entry]:
    return [entry for n in range(1, await log.head() + 1) if (entry := await log.entry(n)) is not None]


async def events_of(log: MemoryLog) -> list[tuple[str, Event]]:
    """(actor, event) of every commit."""
    commits = [CODEC.decode(entry) for entry in await entries_of(log)]
    return [(commit.body.actor, event) for commit in commits for event in commit.events]


async def test_a_refusal_tells_who_wanted_what_and_why_not(ledger: RefusalLedger, log: MemoryLog) -> None:
    await refuse(ledger, on_behalf_of="grace")
    (entry,) = await entries_of(log)
    commit = CODEC.decode(entry)
    assert (commit.noun, commit.events) == ("refusal", (EVENT,))
    body = commit.body
    assert (body.command, body.command_id, body.fingerprint, body.actor, body.on_behalf_of) == (
        "task.complete",
        str(command_id(1)),
        "fingerprint",
        "ada",
        "grace",
    )
    assert (body.correlation_id, body.causation_id, body.occurred_at, body.version) == (
        CORRELATION,
        str(command_id(1)),
        NOW_MS,
        1,
    )
    assert body.id == entry.commit_id


async def test_each_refusal_has_a_subject_and_a_commit_id_of_its_own(ledger: RefusalLedger, log: MemoryLog) -> None:
    await refuse(ledger, 3)
    entries = await entries_of(log)
    assert len({entry.commit_id for entry in entries}) == len({split_subject(entry.subject) for entry in entries}) == 3


async def test_beyond_ten_a_second_only_their_number_is_kept(
    ledger: RefusalLedger, log: MemoryLog, clock: ManualClock
) -> None:
    await refuse(ledger, PER_SECOND_MAX + 3)
    assert await events_of(log) == [("ada", EVENT)] * PER_SECOND_MAX
    clock.advance(0.999)
    await ledger.flush()
    assert await log.head() == PER_SECOND_MAX
    clock.advance(0.001)
    await ledger.flush()
    assert (await events_of(log))[PER_SECOND_MAX:] == [("ada", RefusalsSuppressed(count=3))]
    await ledger.flush()
    assert await log.head() == PER_SECOND_MAX + 1


async def test_the_bound_holds_for_each_actor_by_itself(ledger: RefusalLedger, log: MemoryLog) -> None:
    await refuse(ledger, PER_SECOND_MAX + 5)
    await refuse(ledger, 1, actor="bob")
    assert (await events_of(log))[-1] == ("bob", EVENT)


async def test_after_a_second_an_actor_is_heard_again(
    ledger: RefusalLedger, log: MemoryLog, clock: ManualClock
) -> None:
    await refuse(ledger, PER_SECOND_MAX)
    clock.advance(1.0)
    await refuse(ledger, 1)
    assert await log.head() == PER_SECOND_MAX + 1
    await ledger.flush()
    clock.advance(1.0)
    await ledger.flush()
    assert await log.head() == PER_SECOND_MAX + 1  # nothing was suppressed, so nothing is said about it


async def test_a_loop_stays_suppressed_until_its_count_is_on_the_log(
    ledger: RefusalLedger, log: MemoryLog, clock: ManualClock
) -> None:
    await refuse(ledger, PER_SECOND_MAX + 1)
    clock.advance(1.0)
    await refuse(ledger, 4)
    await ledger.flush()
    await refuse(ledger, 1)
    assert (await events_of(log))[PER_SECOND_MAX:] == [("ada", RefusalsSuppressed(count=5)), ("ada", EVENT)]


async def test_the_memory_of_actors_is_bounded(log: MemoryLog, clock: ManualClock) -> None:
    ledger = RefusalLedger(log, CODEC, clock)
    for number in range(ACTORS_MAX + 10):
        assert ledger._admit(f"actor {number}")
    assert len(ledger._windows) == ACTORS_MAX
