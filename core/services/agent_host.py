"""The agent host: runs attempts through executors and tells the bus how they ended.

It holds a lease by beating. When no beat was answered for `self_stop_s` it ends its attempts by itself, before the
scheduler's lease runs out: whoever gets the task next never works beside a ghost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from core.execution import SIGN_OF_LIFE, Attempt, CancelToken, Executor, Outcome, Progress
from core.host import FirstAgent, LeaveHost, RegisterHost
from core.kernel.errors import HivebusError, NotFound, Refused, Unavailable
from core.kernel.ids import uuid7
from core.kernel.ports import Clock
from core.services.link import Beat, BeatAnswer, Cancel, Control, Run
from core.services.silence import Silence
from core.services.spending import Spending
from core.services.verdicts import unacceptable, verdict
from core.task import AskTask, CompleteTask, FailTask, ProgressTask, StartTask

logger = logging.getLogger("hivebus.host")

STARTED_AFTER_S = 0.25
RETRY_S = 0.2
ENDED_MAX = 1024
PROGRESS_EVERY_S = 10.0
REPORT_PAUSE_S_MAX = 2.0
SELF_STOP_SHARE = 0.75


class _Attempt:
    """One attempt that runs here."""

    __slots__ = (
        *("began", "last_progress", "run", "shown", "silence", "silent", "spending", "started_ms", "step", "task"),
        "token",
    )

    def __init__(self, run: Run, clock: Clock) -> None:
        self.run = run
        self.started_ms = clock.now_ms()
        self.token = CancelToken()
        self.silent = False
        self.silence = Silence(clock, self.token)
        self.spending = Spending(run.left)
        self.began = clock.monotonic()
        self.last_progress = float("-inf")
        self.shown = SIGN_OF_LIFE
        self.step: str | None = None
        self.task: asyncio.Task[None] | None = None


class AgentHost:
    """One session after another of one host."""

    def __init__(
        self,
        host_id: str,
        name: str,
        executors: Mapping[str, Executor],
        control: Control,
        clock: Clock,
        *,
        slots: int = 32,
        beat_s: float = 5.0,
        self_stop_s: float = 15.0,
        agents: Sequence[FirstAgent] = (),
        life: str | None = None,
    ) -> None:
        self.host_id = host_id
        self.session = ""
        self.began = asyncio.Event()
        # One life of this process; its sessions are numbered. The broker tells a life's end by its connection's name.
        self.life = life or str(uuid7(clock.now_ms()))
        self._sessions = 0
        self._agents = tuple(agents)
        self._nudged = asyncio.Event()
        self._name = name
        self._executors = executors
        self._control = control
        self._clock = clock
        self._slots = slots
        self._beat_s = beat_s
        self._self_stop_s = self_stop_s
        self._term = 0
        self._registered_at = 0
        self._answered_at = clock.monotonic()
        self._ended: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._attempts: dict[str, _Attempt] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._draining = False

    @property
    def running(self) -> int:
        """Attempts that run now."""
        return len(self._attempts)

    @property
    def registered(self) -> bool:
        """Whether a session has begun, with everything that belongs to it."""
        return bool(self.session and self._registered_at)

    # --- what the scheduler says ---

    def run_attempt(self, run: Run) -> None:
        """Begin an attempt; a repeat, an older term and another session's are ignored."""
        if run.session != self.session or run.term < self._term or self._draining:
            return
        if (run.task_id, run.fence) in self._ended:
            return  # its result is on the log, or on its way: a fence is never run twice
        self._term = run.term
        current = self._attempts.get(run.task_id)
        if current is not None:
            if current.run.fence >= run.fence:
                return
            self._end_silently(current)
        elif len(self._attempts) >= self._slots:
            return  # the next beat's answer offers it again
        attempt = _Attempt(run, self._clock)
        self._attempts[run.task_id] = attempt
        attempt.task = asyncio.create_task(self._run(attempt))
        self._work.add(attempt.task)
        attempt.task.add_done_callback(self._work.discard)

    def cancel_attempt(self, cancel: Cancel) -> None:
        """Stop an attempt, if it is still that one."""
        attempt = self._attempts.get(cancel.task_id)
        if attempt is not None and attempt.run.fence == cancel.fence:
            attempt.token.grace_s = cancel.grace_s
            attempt.token.cancel("cancelled")

    # --- the life of a host ---

    async def live(self) -> None:
        """Register, beat, and begin a new session whenever the old one is over. Ends only by cancellation."""
        while True:
            sent_at = self._clock.monotonic()
            try:
                if not self.session:
                    await self._register()
                async with asyncio.timeout(self._patience_s(sent_at)):
                    answer = await self._control.beat(self._beat())
            except (TimeoutError, Unavailable) as error:
                self._stop_if_unanswered()
                await self._clock.sleep(RETRY_S if isinstance(error, Unavailable) else 0.0)
                continue
            if answer.term < self._term:
                # A scheduler that was deposed and does not know it: whoever leads now has not answered.
                self._stop_if_unanswered()
                await self._clock.sleep(RETRY_S)
                continue
            # The lease runs from when the beat was heard, which is not before it was sent.
            self._answered_at = sent_at
            self._obey(answer)
            await self._rest(self._beat_s if answer.alive else RETRY_S)

    def nudge(self) -> None:
        """Beat at once: after a lost connection, the sooner the better."""
        self._nudged.set()

    async def _rest(self, seconds: float) -> None:
        waits = [asyncio.create_task(self._clock.sleep(seconds)), asyncio.create_task(self._nudged_once())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._nudged.clear()

    async def _nudged_once(self) -> None:
        await self._nudged.wait()

    def _patience_s(self, now: float) -> float:
        """How long to wait for an answer: a beat, and never beyond the time to stop by itself."""
        left_s = self._answered_at + self._self_stop_s - now
        return min(self._beat_s, left_s) if left_s > 0 and self._attempts else self._beat_s

    def _stop_if_unanswered(self) -> None:
        silent_s = self._clock.monotonic() - self._answered_at
        if silent_s >= self._self_stop_s and self._attempts:
            logger.warning("No beat was answered for %.0f s: this host ends its attempts.", silent_s)
            self._end_session()

    async def drain(self, grace_s: float) -> None:
        """Interrupt what runs, tell the bus, and leave. Interrupted tasks are queued again at once."""
        self._draining = True
        for attempt in list(self._attempts.values()):
            attempt.token.grace_s = grace_s
            attempt.token.cancel("interrupted")
        while self._work:
            await asyncio.wait(self._work)
        if self.session:
            try:
                command = LeaveHost(host_id=self.host_id, session=self.session)
                await self._control.execute(command, correlation_id=str(uuid7()))
            except HivebusError as error:
                logger.info("Left without a word: %s", error.sentence)

    def _beat(self) -> Beat:
        running = tuple((attempt.run.task_id, attempt.run.fence) for attempt in self._attempts.values())
        return Beat(host_id=self.host_id, session=self.session, registered_at=self._registered_at, running=running)

    async def _register(self) -> None:
        self._sessions += 1
        session = f"{self.life}.{self._sessions}"
        command = RegisterHost(
            host_id=self.host_id,
            name=self._name,
            session=session,
            executors=sorted(self._executors),
            slots=self._slots,
            agents=self._agents,
        )
        # The host answers to its new name before the log knows it: the first assignment may follow at once.
        self.session = session
        try:
            async with asyncio.timeout(self._beat_s):
                self._registered_at = await self._control.execute(command, correlation_id=session)
            self._answered_at = self._clock.monotonic()
        except BaseException:
            self.session = ""
            raise
        self.began.set()
        logger.info("Host %s began session %s with %d slots.", self._name, session, self._slots)

    def _obey(self, answer: BeatAnswer) -> None:
        self._term = max(self._term, answer.term)
        if answer.lease_s is not None and self._self_stop_s >= answer.lease_s:
            self._self_stop_s = answer.lease_s * SELF_STOP_SHARE
            logger.warning(
                "The lease is %g s: unanswered, this host stops after %g s.", answer.lease_s, self._self_stop_s
            )
        if not answer.alive:
            logger.warning("This host's session is over; it ends %d attempts and begins again.", len(self._attempts))
            self._end_session()
            return
        for task_id, fence in answer.void:
            attempt = self._attempts.get(task_id)
            if attempt is not None and attempt.run.fence == fence:
                self._end_silently(attempt)
        for cancel in answer.cancel:
            self.cancel_attempt(cancel)
        for run in answer.run:
            self.run_attempt(run)

    def _end_session(self) -> None:
        self.session = ""
        self._registered_at = 0
        for attempt in list(self._attempts.values()):
            self._end_silently(attempt)

    def _end_silently(self, attempt: _Attempt) -> None:
        """Kill an attempt that nobody waits for any more."""
        attempt.silent = True
        attempt.token.grace_s = 0.0
        attempt.token.cancel("void")
        self._forget(attempt)

    def _forget(self, attempt: _Attempt) -> None:
        run = attempt.run
        if self._attempts.get(run.task_id) is attempt:
            del self._attempts[run.task_id]
        self._ended[run.task_id, run.fence] = None
        if len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)

    # --- one attempt ---

    async def _run(self, attempt: _Attempt) -> None:
        beside = [asyncio.create_task(self._say_started(attempt))]
        if (silence_s := attempt.run.silence_timeout_s) is not None:
            beside.append(asyncio.create_task(attempt.silence.watch(silence_s)))
        try:
            outcome = await self._execute(attempt)
        finally:
            for task in beside:
                task.cancel()
        try:
            await self._report(attempt, outcome)
        finally:
            self._forget(attempt)

    async def _execute(self, attempt: _Attempt) -> Outcome:
        run = attempt.run
        executor = self._executors.get(run.executor)
        if executor is None:
            return Outcome(outcome="failed", error=f"This host has no executor {run.executor}.", retryable=False)
        described = Attempt(
            task_id=run.task_id,
            agent_id=run.agent_id,
            attempt=run.attempt,
            executor=run.executor,
            type=run.type,
            parameters=run.parameters,
            timeout_s=run.timeout_s,
            fence=run.fence,
            answers=[{"question": said.question, "answer": said.answer} for said in run.answers],
            left=run.left,
        )

        def report(progress: Progress) -> None:
            self._say_progress(attempt, progress)

        try:
            return await executor.run(described, attempt.token, report)
        except Exception as error:
            # An executor promises not to raise. One that does anyway ends this attempt, not the host.
            logger.exception("Executor %s broke its promise.", run.executor)
            return Outcome(outcome="crashed", error=f"The executor failed: {type(error).__name__}: {error}")

    async def _say_started(self, attempt: _Attempt) -> None:
        await self._clock.sleep(STARTED_AFTER_S)
        run = attempt.run
        command = StartTask(task_id=run.task_id, fence=run.fence, started_ms=attempt.started_ms)
        try:
            await self._control.execute(command, correlation_id=run.correlation_id, cause=run.fence)
        except HivebusError as error:
            logger.debug("task.start %s: %s", run.task_id, error.sentence)

    def _say_progress(self, attempt: _Attempt, progress: Progress) -> None:
        """Progress is no lifecycle: it reaches the log at a new step or another usage, at most every ten seconds.

        What passes the budget is said at once. A short attempt tells what it used at its end.
        """
        attempt.silence.end()
        attempt.spending.hear(progress.usage)
        said_how_far = replace(progress, usage=None) != SIGN_OF_LIFE
        if said_how_far:
            attempt.shown = progress
        now = self._clock.monotonic()
        new_step = said_how_far and progress.current_step != attempt.step
        last = attempt.last_progress if new_step else max(attempt.last_progress, attempt.began)
        due = (new_step or attempt.spending.is_news) and now - last >= PROGRESS_EVERY_S
        if not attempt.spending.passes() and not due:
            return
        shown = attempt.shown
        attempt.step, attempt.last_progress = shown.current_step, now
        command = ProgressTask(
            task_id=attempt.run.task_id,
            fence=attempt.run.fence,
            progress=shown.progress,
            current_step=shown.current_step,
            steps_completed=shown.steps_completed,
            total_steps=shown.total_steps,
            usage=attempt.spending.tell(),
        )
        said = asyncio.create_task(self._say(command, attempt.run))
        self._work.add(said)
        said.add_done_callback(self._work.discard)

    async def _say(self, command: ProgressTask, run: Run) -> None:
        try:
            await self._control.execute(command, correlation_id=run.correlation_id, cause=run.fence)
        except HivebusError as error:
            logger.debug("task.progress %s: %s", command.task_id, error.sentence)

    async def _report(self, attempt: _Attempt, outcome: Outcome) -> None:
        """Tell the bus until it has answered: the same command id makes the repeats harmless."""
        if attempt.silent:
            return
        run, started_ms = attempt.run, attempt.started_ms
        attempt.spending.hear(outcome.usage)
        usage = attempt.spending.newest
        command: CompleteTask | FailTask | AskTask = verdict(run, outcome, started_ms, attempt.token.reason, usage)
        command_id = str(uuid7(self._clock.now_ms()))
        pause_s = 0.05
        while not attempt.silent:
            try:
                await self._control.execute(
                    command, correlation_id=run.correlation_id, cause=run.fence, command_id=command_id
                )
                return
            except (Refused, NotFound) as error:
                logger.warning("Task %s: a late result was refused: %s", attempt.run.task_id, error.sentence)
                return
            except Unavailable as error:
                logger.info("Task %s: the result waits: %s", attempt.run.task_id, error.sentence)
                await self._clock.sleep(pause_s)
                pause_s = min(REPORT_PAUSE_S_MAX, pause_s * 2)
            except HivebusError as error:
                # The log will never take this result (it is too large): that is how the attempt ended, then.
                command, command_id = unacceptable(run, error, started_ms, usage), str(uuid7(self._clock.now_ms()))
