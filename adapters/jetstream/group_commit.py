"""Group commit: what waits goes out as one atomic batch, so that one sync to disk serves many commits.

A broker that syncs each message does 2,000 to 5,000 plain appends a second; a batch costs it 4 ms and little more
for each of its commits. So a few waiting commits are sent plainly, more as a batch (docs/decisions/0009).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from itertools import count
from secrets import token_urlsafe

from msgspec import Struct

from adapters.jetstream.api import (
    BATCH_COMMIT,
    BATCH_ID,
    BATCH_SEQUENCE,
    COMMIT_ID,
    EXPECTED,
    Ack,
    batch_ack_of,
    unreachable,
)
from adapters.jetstream.health import Pulse
from adapters.jetstream.publisher import Answer, Publisher, check
from adapters.jetstream.wire import WireClient

PLAIN_MAX = 12
BATCH_MAX = 500
BATCH_BYTES_MAX = 4 * 1024 * 1024
BATCHES_MAX = 4


class _Commit(Struct):
    """One append on its way: it holds a permit of the publisher's room until `answer` is set."""

    subject: str
    commit_id: str
    body: bytes
    expected: int
    answer: Answer


class _Batch(Struct):
    """An unanswered batch."""

    commits: Sequence[_Commit]
    sent_at: float
    timer: asyncio.TimerHandle


class GroupCommit:
    """A publisher that coalesces.

    An append that finds nothing unanswered leaves at once. Others wait for the end of the loop's turn: then up to 12
    go out plainly, more form one batch of at most 500 commits and 4 MiB. While one is unanswered the next one fills:
    it leaves with the answer, or when 500 commits wait and no more than three are unanswered. A batch that was
    refused stored nothing: its commits are sent again plainly, each for itself. One without an answer leaves each of
    its commits unknown.
    """

    def __init__(self, client: WireClient, pulse: Pulse, publisher: Publisher, *, timeout_s: float = 2.0) -> None:
        self._client = client
        self._pulse = pulse
        self._publisher = publisher
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._inbox = f"{client.new_inbox()}."
        self._inbox_size = len(self._inbox)
        self._series = token_urlsafe(6)
        self._numbers = count()
        self._waiting: deque[_Commit] = deque()
        self._batches: dict[bytes, _Batch] = {}
        self._awake = False
        self._number = 0

    async def start(self) -> None:
        """Subscribe the inbox."""
        self._number = await self._client.listen(f"{self._inbox}*", self._on_ack)
        self._client.on_lost.append(self._give_up_all)
        self._publisher.on_settled = self._wake

    def close(self) -> None:
        """Stop listening; what is in flight ends without an answer, what waits is refused."""
        self._client.unlisten(self._number)
        if self._give_up_all in self._client.on_lost:
            self._client.on_lost.remove(self._give_up_all)
        self._give_up_all()

    def publish(self, subject: str, commit_id: str, body: bytes, expected: int) -> Awaitable[Ack | None]:
        """See Publisher. A caller that is cancelled before its commit left takes it back."""
        check(subject)
        if not self._publisher.room.take(len(body)):
            return self._publish_in_turn(subject, commit_id, body, expected)
        return self._publish(subject, commit_id, body, expected)

    async def _publish_in_turn(self, subject: str, commit_id: str, body: bytes, expected: int) -> Ack | None:
        await self._publisher.room.wait(len(body))
        return await self._publish(subject, commit_id, body, expected)

    def _publish(self, subject: str, commit_id: str, body: bytes, expected: int) -> Answer:
        if not self._pulse.reachable:
            self._publisher.room.give(len(body))
            raise unreachable()
        answer: Answer = self._loop.create_future()
        if not (self._waiting or self._batches or self._publisher.in_flight):
            self._publisher.send(subject, commit_id, body, expected, answer)
            return answer
        self._waiting.append(_Commit(subject, commit_id, body, expected, answer))
        self._wake()
        return answer

    # --- leaving ---

    def _wake(self) -> None:
        """Look at the end of the turn: whoever was answered in it may have asked for more by then."""
        if self._waiting and not self._awake:
            self._awake = True
            self._loop.call_soon(self._end_of_turn)

    def _end_of_turn(self) -> None:
        self._awake = False
        if self._waiting and not self._pulse.reachable:
            self._refuse_waiting()
        while self._waiting:
            plain = self._publisher.in_flight
            if self._batches:
                if len(self._batches) >= BATCHES_MAX or len(self._waiting) < BATCH_MAX:
                    return
            elif plain and plain + len(self._waiting) > PLAIN_MAX >= len(self._waiting):
                return
            self._send_batch()

    def _send_batch(self) -> None:
        """The next commits as one batch, or plainly if they are few."""
        commits, repeats = self._next_commits()
        if len(commits) <= PLAIN_MAX:
            repeats = commits + repeats
        else:
            self._send_together(commits)
        for commit in repeats:
            self._send_alone(commit)

    def _next_commits(self) -> tuple[list[_Commit], list[_Commit]]:
        """What one batch can hold, and beside it repeats of its subjects: one of them would refuse the whole batch."""
        commits: list[_Commit] = []
        repeats: list[_Commit] = []
        subjects: set[str] = set()
        left = BATCH_BYTES_MAX
        while self._waiting and len(commits) < BATCH_MAX:
            commit = self._waiting[0]
            size = len(commit.body)
            if commit.answer.done():
                self._publisher.room.give(size)
            elif commit.subject in subjects:
                repeats.append(commit)
            elif size > left and commits:
                break
            else:
                left -= size
                subjects.add(commit.subject)
                commits.append(commit)
            self._waiting.popleft()
        return commits, repeats

    def _send_alone(self, commit: _Commit) -> None:
        self._publisher.send(commit.subject, commit.commit_id, commit.body, commit.expected, commit.answer)

    def _send_together(self, commits: list[_Commit]) -> None:
        # A name is used once: what an outage leaves half sent stays on the broker for ten seconds under its name.
        number = str(next(self._numbers))
        token = number.encode()
        timer = self._loop.call_later(self._timeout_s, self._give_up, token)
        self._batches[token] = _Batch(commits, time.monotonic(), timer)
        common = f"\r\n{BATCH_ID}: {self._series}{number}\r\n{BATCH_SEQUENCE}: "
        # Only the last one is answered, for all of them.
        reply, end = "", "\r\n\r\n"
        last = len(commits)
        pieces: list[bytes] = []
        for place, commit in enumerate(commits, 1):
            if place == last:
                reply, end = f"{self._inbox}{number} ", f"\r\n{BATCH_COMMIT}: 1\r\n\r\n"
            seen, body = commit.expected, commit.body
            head = f"NATS/1.0\r\n{EXPECTED}: {seen}\r\n{COMMIT_ID}: {commit.commit_id}{common}{place}{end}"
            size = len(head)
            pieces += (f"HPUB {commit.subject} {reply}{size} {size + len(body)}\r\n{head}".encode(), body, b"\r\n")
        self._client.send(b"".join(pieces))

    # --- answers ---

    def _on_ack(self, subject: bytes, _reply: bytes, data: bytes, headers: bytes) -> None:
        batch = self._taken(subject[self._inbox_size :])
        if batch is None:
            return
        ack = None if headers else batch_ack_of(data)
        if ack is None or ack.error is not None:
            self._send_each(batch.commits)
        elif ack.count == len(batch.commits):
            stored = self._publisher.on_stored
            for position, commit in enumerate(batch.commits, ack.seq - ack.count + 1):
                self._settle(commit, Ack(position))
                if stored is not None:
                    stored(position, commit.subject, commit.commit_id, commit.body)
        else:
            # Not the answer to what was sent: each one is looked up.
            self._settle_unknown(batch)
        self._wake()

    def _send_each(self, commits: Sequence[_Commit]) -> None:
        for commit in commits:
            if commit.answer.done():
                self._publisher.room.give(len(commit.body))
            else:
                self._send_alone(commit)

    def _give_up(self, token: bytes) -> None:
        batch = self._taken(token)
        if batch is not None:
            self._pulse.missed(sent_at=batch.sent_at)
            self._settle_unknown(batch)
            self._wake()

    def _give_up_all(self) -> None:
        for token in list(self._batches):
            batch = self._taken(token)
            if batch is not None:
                self._settle_unknown(batch)
        self._refuse_waiting()

    def _taken(self, token: bytes) -> _Batch | None:
        batch = self._batches.pop(token, None)
        if batch is not None:
            batch.timer.cancel()
        return batch

    def _settle_unknown(self, batch: _Batch) -> None:
        for commit in batch.commits:
            self._settle(commit, None)

    def _settle(self, commit: _Commit, ack: Ack | None) -> None:
        self._publisher.room.give(len(commit.body))
        if not commit.answer.done():
            commit.answer.set_result(ack)

    def _refuse_waiting(self) -> None:
        """They were never sent."""
        waiting, self._waiting = self._waiting, deque()
        for commit in waiting:
            self._publisher.room.give(len(commit.body))
            if not commit.answer.done():
                commit.answer.set_exception(unreachable())
