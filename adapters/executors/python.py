"""The executor `python`: registered functions. `async def` runs in the loop, others in a process of their own."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

import msgspec

from adapters.executors import python_child
from adapters.executors.command import cancelled_sentence, timed_out_sentence
from adapters.executors.functions import Function, Functions, installed
from adapters.executors.host import Host
from adapters.executors.output import INLINE_MAX_BYTES, Redactor, kept
from adapters.executors.process import Ended, NotStarted, Program, run_program
from adapters.executors.python_child import VALUE_MAX_BYTES, InputRequired, Task, describe, encode_value
from adapters.executors.references import Resolver
from adapters.executors.workspace import list_files
from core.execution import MIB, SIGN_OF_LIFE, Attempt, CancelToken, Outcome, Progress, PythonParameters, parameters_of
from core.kernel.errors import HivebusError

log = logging.getLogger(__name__)

OUTPUT_MAX_BYTES = 16 * MIB
MEMORY_MAX_MB = 2048
_LINE_MAX_BYTES = VALUE_MAX_BYTES + 64 * 1024
_IN_LOOP = "an async function runs inside the agent host"

Report = Callable[[Progress], None]


class PythonExecutor:
    """Calls registered functions with the task's arguments as keywords."""

    name = "python"

    def __init__(self, host: Host, functions: Functions | None = None) -> None:
        self._host = host
        self._functions = functions or installed()

    async def run(self, attempt: Attempt, token: CancelToken, report: Report) -> Outcome:
        """See Executor. An async function that swallows its cancellation is abandoned after the grace, and logged."""
        if token.cancelled.is_set():
            return Outcome(outcome="cancelled", error=cancelled_sentence(token))
        try:
            parameters = parameters_of(self.name, attempt.parameters)
            assert isinstance(parameters, PythonParameters)
            function = self._functions.loaded(parameters.function)
            if function is None:
                function = await asyncio.to_thread(self._functions.load, parameters.function)
            resolver = Resolver(self._host.secrets, self._host.blobs)
            arguments = {name: await resolver.value(value) for name, value in parameters.arguments.items()}
            function.check(arguments)
            redactor = Redactor(self._host.secrets.values(), resolver.used)
            call = _Call(self._host, function, arguments, attempt=attempt, redactor=redactor)
            return await (call.in_loop(token, report) if function.is_async else call.in_process(token, report))
        except NotStarted as error:
            return Outcome(outcome="crashed", error=error.sentence)
        except HivebusError as error:
            return Outcome(outcome="failed", error=error.sentence, retryable=False)
        except OSError as error:
            log.exception("the machine failed task %s", attempt.task_id)
            return Outcome(outcome="crashed", error=f"The agent's machine failed: {error}.")


class _Call:
    """One call of one function."""

    def __init__(
        self, host: Host, function: Function, arguments: dict[str, Any], *, attempt: Attempt, redactor: Redactor
    ) -> None:
        self._host = host
        self._function = function
        self._arguments = arguments
        self._attempt = attempt
        self._redactor = redactor
        self._workspace: Path | None = None

    async def in_loop(self, token: CancelToken, report: Report) -> Outcome:
        """Await the function in this loop. A workspace is made only if it asks for one."""
        arguments = self._arguments
        if self._function.wants_task:
            arguments = arguments | {"task": self._task(report)}
        began = time.monotonic()
        work = asyncio.create_task(_guarded(self._function.call(**arguments)))
        try:
            verdict = await _first(work, self._attempt.timeout_s, token)
            duration_s = round(time.monotonic() - began, 6)
            files = {"files": [], "files_omitted": 0}
            if self._workspace is not None:
                files = await asyncio.to_thread(list_files, self._workspace)
        finally:
            work.cancel()
            if self._workspace is not None:
                await asyncio.to_thread(self._host.workspaces.close, self._workspace, keep=False)
        result: dict[str, Any] = {"value": None, "exit_code": None, "stdout": None, "stderr": None}
        result |= files | {"duration_s": duration_s}
        result["unknown"] = dict.fromkeys(("exit_code", "stdout", "stderr"), _IN_LOOP)
        if verdict != "ended":
            return self._stopped(verdict, token, result)
        return await self._finished(work, result)

    def _task(self, report: Report) -> Task:
        attempt = self._attempt
        return Task(
            task_id=attempt.task_id,
            attempt=attempt.attempt,
            workspace=self._make_workspace,
            steps=attempt.steps,
            send=lambda fields: report(msgspec.convert(fields, Progress)),
            answers=attempt.answers,
            left=msgspec.to_builtins(attempt.left),
        )

    def _make_workspace(self) -> Path:
        if self._workspace is None:
            self._workspace = self._host.workspaces.create(self._attempt)
        return self._workspace

    async def _finished(self, work: asyncio.Task[Any], result: dict[str, Any]) -> Outcome:
        if work.cancelled():
            return self._failed({"type": "CancelledError", "message": "it cancelled itself", "traceback": ""}, result)
        error = work.exception()
        if isinstance(error, InputRequired):
            return self._asked(error.asked())
        if error is not None:
            return self._failed(describe(error), result)
        try:
            data = encode_value(work.result())
        except (TypeError, ValueError) as refused:
            return self._failed(describe(refused, lasting=True), result)
        return await self._completed(data, result)

    async def in_process(self, token: CancelToken, report: Report) -> Outcome:
        """Call the function in a process of its own, with the workspace as its directory."""
        workspaces = self._host.workspaces
        workspace = await asyncio.to_thread(workspaces.create, self._attempt)
        try:
            control = _Control(report)
            ended = await run_program(self._program(workspace, control), token, self._host.warden)
            blobs = self._host.blobs
            result: dict[str, Any] = {"value": None, "exit_code": ended.exit_code}
            result |= await kept("stdout", self._redactor.bytes(ended.stdout), blobs)
            result |= await kept("stderr", self._redactor.bytes(ended.stderr), blobs)
            result |= await asyncio.to_thread(list_files, workspace)
            result["duration_s"] = round(ended.duration_s, 6)
            return await self._concluded(ended, control, token, result)
        finally:
            await asyncio.to_thread(workspaces.close, workspace, keep=False)

    def _program(self, workspace: Path, control: _Control) -> Program:
        request = {
            "target": self._function.target,
            "arguments": self._arguments,
            "wants_task": self._function.wants_task,
            "task_id": self._attempt.task_id,
            "attempt": self._attempt.attempt,
            "steps": self._attempt.steps,
            "answers": self._attempt.answers,
            "left": self._attempt.left,
            "sys_path": [path or os.getcwd() for path in sys.path],
        }
        return Program(
            # By path and with -P: neither this package's folder nor the workspace gets onto the module path.
            argv=[sys.executable, "-P", python_child.__file__],
            env=self._host.workspaces.environment(self._attempt),
            workspace=workspace,
            timeout_s=self._attempt.timeout_s,
            output_max_bytes=OUTPUT_MAX_BYTES,
            memory_max_mb=MEMORY_MAX_MB,
            stdin=msgspec.json.encode(request),
            control=control.take,
            started=lambda pid: self._host.workspaces.mark(workspace, pid, keep=False),
            heard=lambda: control.report(SIGN_OF_LIFE),
        )

    async def _concluded(self, ended: Ended, control: _Control, token: CancelToken, result: dict[str, Any]) -> Outcome:
        if ended.verdict == "output_limit":
            sentence = f"It wrote more than {OUTPUT_MAX_BYTES} bytes and was stopped."
            return Outcome(outcome="output_limit", result=result, error=sentence, retryable=False)
        if ended.verdict != "exited":
            return self._stopped(ended.verdict, token, result)
        if control.value is not None:
            return await self._completed(control.value, result)
        if control.asks is not None:
            return self._asked(control.asks)
        if control.error is not None:
            return self._failed(control.error, result)
        sentence = f"{self._function.name}: its process ended with code {ended.exit_code} and without a result."
        return Outcome(outcome="failed", result=result, error=sentence)

    def _asked(self, asked: dict[str, Any]) -> Outcome:
        """A question lies in the log like a result: without secrets."""
        choices = asked["choices"]
        return Outcome(
            outcome="input_required",
            question=self._redactor.text(asked["question"]),
            choices=None if choices is None else [self._redactor.text(choice) for choice in choices],
        )

    def _stopped(
        self, verdict: Literal["timed_out", "cancelled"], token: CancelToken, result: dict[str, Any]
    ) -> Outcome:
        sentence = timed_out_sentence(self._attempt) if verdict == "timed_out" else cancelled_sentence(token)
        return Outcome(outcome=verdict, result=result, error=sentence)

    def _failed(self, error: dict[str, Any], result: dict[str, Any]) -> Outcome:
        text = self._redactor.text(error["traceback"])
        result["stderr"] = (result["stderr"] or "") + text
        sentence = self._redactor.text(f"{error['type']}: {error['message']}")
        return Outcome(outcome="failed", result=result, error=sentence, retryable=not error.get("lasting", False))

    async def _completed(self, data: bytes, result: dict[str, Any]) -> Outcome:
        data = self._redactor.bytes(data)
        if len(data) > INLINE_MAX_BYTES:
            result["value_blob"] = {"sha256": await self._host.blobs.put(data), "size": len(data)}
        else:
            result["value"] = msgspec.json.decode(data)
        return Outcome(outcome="completed", result=result)


class _Control:
    """The child's lines as they come. A line beyond the bound is no line of ours: it is dropped, and logged."""

    def __init__(self, report: Report) -> None:
        self.value: bytes | None = None
        self.error: dict[str, Any] | None = None
        self.asks: dict[str, Any] | None = None
        self.report = report
        self._buffer = bytearray()

    def take(self, chunk: bytes) -> None:
        """The next bytes of the control pipe."""
        self._buffer += chunk
        while b"\n" in chunk and (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._line(line)
        if len(self._buffer) > _LINE_MAX_BYTES:
            log.warning("a task function wrote %d bytes without a line end to the control pipe", len(self._buffer))
            self._buffer.clear()

    def _line(self, line: bytes) -> None:
        try:
            message = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            if "progress" in message:
                self.report(msgspec.json.decode(message["progress"], type=Progress))
            elif "value" in message:
                self.value = bytes(message["value"])
            elif "asks" in message:
                self.asks = msgspec.json.decode(message["asks"], type=dict[str, Any])
            elif "error" in message:
                self.error = msgspec.json.decode(message["error"], type=dict[str, Any])
        except msgspec.MsgspecError as error:
            log.warning("a task function wrote a line to the control pipe that is none of ours: %s", error)


async def _guarded(work: Coroutine[Any, Any, Any]) -> Any:
    """A task that raises SystemExit or KeyboardInterrupt would end the whole program: here it fails like any other."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"the function raised {error!r}") from error


async def _first(
    work: asyncio.Task[Any], timeout_s: float, token: CancelToken
) -> Literal["ended", "timed_out", "cancelled"]:
    """What comes first; unless it is the work's own end, the work is cancelled and granted the grace."""
    loop = asyncio.get_running_loop()
    verdict: asyncio.Future[Literal["ended", "timed_out", "cancelled"]] = loop.create_future()

    def settle(how: Literal["ended", "timed_out", "cancelled"]) -> None:
        if not verdict.done():
            verdict.set_result(how)

    work.add_done_callback(lambda _: settle("ended"))
    timer = loop.call_later(timeout_s, settle, "timed_out")
    unsubscribe = token.subscribe(lambda: settle("cancelled"))
    try:
        how = await verdict
    finally:
        timer.cancel()
        unsubscribe()
    if how != "ended":
        work.cancel()
        await asyncio.wait({work}, timeout=token.grace_s)
        if not work.done():
            log.error("%r does not end when it is cancelled and is abandoned", work)
        elif not work.cancelled() and work.exception() is not None:
            log.info("a cancelled task function ended with %r", work.exception())
    return how
