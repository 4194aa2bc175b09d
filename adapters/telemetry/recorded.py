"""What can be told from commits as they are recorded: how many, and how attempts ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import msgspec
from msgspec import Struct

from adapters.telemetry import ATTEMPTS_ENDED, COMMITS_RECORDED, UNKNOWN
from core.kernel.commit import Body, Entry
from core.task.events import AttemptEnded, AttemptOutcome, TaskAsked, TaskCompleted, task

ASKED = "input_required"
OUTCOMES = ("completed", ASKED, *get_args(AttemptOutcome))

_ASKED = task.events[TaskAsked].name
_COMPLETED, _ENDED = task.events[TaskCompleted].name, task.events[AttemptEnded].name


class _Outcome(Struct, gc=False):
    outcome: str = UNKNOWN


_decode = msgspec.json.Decoder(_Outcome).decode


def count(commits: Sequence[tuple[Entry, Body]]) -> None:
    """Count a recorded batch. Never raises: what another version of the program wrote is `unknown`."""
    COMMITS_RECORDED.add(count=len(commits))
    for _, body in commits:
        for event in body.events:
            if event.type == _COMPLETED:
                ATTEMPTS_ENDED.add("completed")
            elif event.type == _ASKED:
                ATTEMPTS_ENDED.add(ASKED)
            elif event.type == _ENDED:
                ATTEMPTS_ENDED.add(_outcome(event.data))


def _outcome(data: msgspec.Raw) -> str:
    try:
        outcome = _decode(data).outcome
    except msgspec.MsgspecError:
        return UNKNOWN
    return outcome if outcome in OUTCOMES else UNKNOWN
