"""Sends tasks in batches. Each batch has one Idempotency-Key, so whatever is sent twice is accepted once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct, field

from entrypoints.cli.failures import Failure
from entrypoints.cli.http import Client, Request
from entrypoints.cli.task_files import Line, chunks

BUSY_STATUSES = frozenset({429, 503})
STALL_MAX_S = 60.0
PAUSE_MAX_S = 10.0


class Rejected(Struct, frozen=True):
    """A task that the server refused: its line, and the problem document."""

    line: int
    error: dict[str, Any]


class Submitted(Struct):
    """What became of all batches. `items` are the server's, with indexes counted over the whole file."""

    correlation_id: str
    items: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    first_position: int = 0
    position: int = 0

    @property
    def task_ids(self) -> list[str]:
        """The accepted tasks, in the order of the file."""
        return [item["task_id"] for item in self.items if "task_id" in item]

    def document(self) -> dict[str, Any]:
        """The answer as one batch would have got it."""
        return {
            "items": self.items,
            "accepted": len(self.task_ids),
            "refused": len(self.rejected),
            "correlation_id": self.correlation_id,
            "position": self.position,
        }

    def take(self, lines: list[Line], answer: dict[str, Any]) -> None:
        """Add the answer to one batch."""
        base = len(self.items)
        for item in answer["items"]:
            self.items.append({**item, "index": base + item["index"]})
            if "error" in item:
                self.rejected.append(Rejected(lines[item["index"]].number, item["error"]))
            else:
                self.first_position = min(self.first_position or item["position"], item["position"])
                self.position = max(self.position, item["position"])


class Submitter:
    """Sends the batches of one command, one after the other."""

    def __init__(
        self,
        client: Client,
        *,
        correlation_id: str,
        key: str,
        note: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._key = key
        self._note = note
        self._monotonic = monotonic
        self._sleep = sleep
        self.submitted = Submitted(correlation_id)

    def send(self, lines: Iterable[Line], progress: Callable[[int], None]) -> Submitted:
        """Send everything; `progress` hears how many lines have their answer."""
        for number, chunk in enumerate(chunks(lines)):
            self.submitted.take(chunk, self._batch(chunk, f"{self._key}-{number}"))
            progress(len(self.submitted.items))
        return self.submitted

    def _batch(self, chunk: list[Line], key: str) -> dict[str, Any]:
        """One batch, repeated under the same key while items are refused for back-pressure and others get in."""
        request = Request(
            "POST",
            "/api/tasks",
            b"\n".join(line.data for line in chunk) + b"\n",
            {
                "Content-Type": "application/x-ndjson",
                "Idempotency-Key": key,
                "X-Correlation-Id": self.submitted.correlation_id,
            },
        )
        best, until = -1, 0.0
        while True:
            answer = self._client.call(request).json()
            if not isinstance(answer, dict) or len(answer.get("items", ())) != len(chunk):
                raise Failure("The server did not answer for each task of a batch.", remedy="Is HIVEBUS_URL right?")
            busy = [item["error"] for item in answer["items"] if item.get("error", {}).get("status") in BUSY_STATUSES]
            if len(busy) < best or best < 0:
                best, until = len(busy), self._monotonic() + STALL_MAX_S
            if not busy or self._monotonic() >= until:
                return answer
            if len(busy) == best:
                self._note(f"{busy[0].get('detail', 'The server is busy.')} {len(busy)} task(s) wait to be sent again.")
            self._sleep(min(PAUSE_MAX_S, max(0.1, float(busy[0].get("retry_after_s") or 1.0))))
