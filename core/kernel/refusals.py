"""Refused commands on the log: bounded per actor, so that a caller in a loop cannot fill the disk."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from core.kernel.codec import Codec
from core.kernel.commit import Event, commit_id_of, fingerprint_of, subject_of
from core.kernel.errors import HivebusError, Refused
from core.kernel.ids import uuid7
from core.kernel.outcomes import CommandRefused, RefusalsSuppressed
from core.kernel.ports import Clock, EventLog
from core.kernel.registry import Context

if TYPE_CHECKING:
    from core.kernel.command_bus import Caller

logger = logging.getLogger("hivebus.refusals")

PER_SECOND_MAX = 10
ACTORS_MAX = 10_000


class _Window:
    __slots__ = ("count", "started", "suppressed")

    def __init__(self, started: float) -> None:
        self.started = started
        self.count = 0
        self.suppressed = 0


class RefusalLedger:
    """Writes `command.refused`, at most 10 a second for an actor; the rest becomes one `refusals.suppressed`."""

    def __init__(self, log: EventLog, codec: Codec, clock: Clock) -> None:
        self._log = log
        self._codec = codec
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    async def record(
        self, refusal: Refused, command: str, target: str, caller: Caller, context: Context, fingerprint: str
    ) -> None:
        """Leave the refusal on the log; its commit id is random, so that the key may be tried again.

        Never raises: what the caller must hear is the refusal, whether the log takes a note of it or not.
        """
        if not self._admit(caller.actor):
            return
        event = CommandRefused(
            command=command, target=target, code=refusal.code, sentence=refusal.sentence, pointer=refusal.pointer
        )
        key, correlation_id = str(context.command_id), context.correlation_id
        try:
            await self._append(event, command, caller.actor, key, correlation_id, fingerprint, caller.on_behalf_of)
        except HivebusError as error:
            logger.warning("A refusal of %s is not on the log: %s", command, error.sentence)

    async def flush(self) -> None:
        """Write the counts of closed windows; one that the log does not take is tried again with the next call."""
        now = self._clock.monotonic()
        closed = [(actor, window) for actor, window in self._windows.items() if now - window.started >= 1.0]
        for actor, window in closed:
            # Out first: what is refused while this is written counts in a window of its own.
            self._windows.pop(actor, None)
            if window.suppressed:
                key = str(uuid7(self._clock.now_ms()))
                event = RefusalsSuppressed(count=window.suppressed)
                try:
                    await self._append(
                        event, "refusals.suppress", actor, key, key, fingerprint_of("suppressed", key), None
                    )
                except HivebusError as error:
                    logger.warning("The count of refusals waits: %s", error.sentence)
                    self._windows.setdefault(actor, _Window(now)).suppressed += window.suppressed

    def _admit(self, actor: str) -> bool:
        now = self._clock.monotonic()
        window = self._windows.get(actor)
        if window is None or (now - window.started >= 1.0 and not window.suppressed):
            window = self._windows[actor] = _Window(now)
            if len(self._windows) > ACTORS_MAX:
                self._windows.popitem(last=False)
        window.count += 1
        if window.count > PER_SECOND_MAX:
            window.suppressed += 1
            return False
        return True

    async def _append(
        self,
        event: Event,
        command: str,
        actor: str,
        command_id: str,
        correlation_id: str,
        fingerprint: str,
        on_behalf_of: str | None,
    ) -> None:
        now_ms = self._clock.now_ms()
        refusal_id = uuid7(now_ms)
        subject = subject_of("refusal", str(refusal_id))
        commit_id = commit_id_of(refusal_id, subject)
        body = self._codec.encode(
            id=commit_id,
            command=command,
            command_id=command_id,
            fingerprint=fingerprint,
            actor=actor,
            on_behalf_of=on_behalf_of,
            correlation_id=correlation_id,
            causation_id=command_id,
            occurred_at=now_ms,
            version=1,
            events=(event,),
        )
        await self._log.append(subject, commit_id, body, expected=0)
