"""The executor `command`: one program from argv, never a shell string, in a workspace of its own."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from adapters.executors import usage_file
from adapters.executors.host import Host
from adapters.executors.output import Redactor, kept
from adapters.executors.process import Ended, NotStarted, Program, run_program
from adapters.executors.references import Resolver
from adapters.executors.workspace import list_files
from core.execution import (
    SIGN_OF_LIFE,
    Attempt,
    CancelToken,
    CommandParameters,
    Outcome,
    OutcomeKind,
    Progress,
    parameters_of,
)
from core.kernel.errors import HivebusError

log = logging.getLogger(__name__)

LAST_LINE_MAX_CHARS = 200
_BWRAP_NOT_FOUND = b"bwrap: execvp "


class CommandExecutor:
    """Runs programs with limits on time, memory and output, inside bubblewrap where the machine has it."""

    name = "command"

    def __init__(self, host: Host) -> None:
        self._host = host

    async def run(self, attempt: Attempt, token: CancelToken, report: Callable[[Progress], None]) -> Outcome:
        """See Executor. A program's output is no progress, only a sign that it lives."""
        if token.cancelled.is_set():
            return Outcome(outcome="cancelled", error=cancelled_sentence(token))
        try:
            return await self._run(attempt, token, report)
        except NotStarted as error:
            kind: OutcomeKind = "failed" if error.lasting else "crashed"
            result = None if error.exit_code is None else self._nothing(error.exit_code)
            return Outcome(outcome=kind, error=error.sentence, retryable=not error.lasting, result=result)
        except HivebusError as error:
            return Outcome(outcome="failed", error=error.sentence, retryable=False)
        except OSError as error:
            log.exception("the machine failed task %s", attempt.task_id)
            return Outcome(outcome="crashed", error=f"The agent's machine failed: {error}.")

    async def _run(self, attempt: Attempt, token: CancelToken, report: Callable[[Progress], None]) -> Outcome:
        parameters = parameters_of(self.name, attempt.parameters)
        assert isinstance(parameters, CommandParameters)
        if not parameters.network and self._host.sandbox is None:
            return Outcome(
                outcome="failed",
                error="The task asks for no network, and this machine has no sandbox to take it away.",
                retryable=False,
            )
        workspaces = self._host.workspaces
        workspace = await asyncio.to_thread(workspaces.create, attempt)
        try:
            return await self._run_in(workspace, attempt, parameters, token, report)
        finally:
            await asyncio.to_thread(workspaces.close, workspace, keep=parameters.keep)

    async def _run_in(
        self,
        workspace: Path,
        attempt: Attempt,
        parameters: CommandParameters,
        token: CancelToken,
        report: Callable[[Progress], None],
    ) -> Outcome:
        host = self._host
        resolver = Resolver(host.secrets, host.blobs)
        argv = [await resolver.text(item) for item in parameters.argv]
        env = {name: await resolver.text(value) for name, value in parameters.env.items()}
        stdin = None if parameters.stdin is None else await resolver.content(parameters.stdin)
        # Ours come last: what the task is called and where it works is not the task's to say.
        own = host.workspaces.environment(attempt) | usage_file.environment(attempt, workspace)
        env = own | env | {name: value for name, value in own.items() if name.startswith("HIVEBUS_")}
        with ExitStack() as stack:
            pass_fds: tuple[int, ...] = ()
            if host.sandbox is not None:
                wrapped = stack.enter_context(host.sandbox.wrap(argv, env, workspace, network=parameters.network))
                argv, env, pass_fds = wrapped.argv, wrapped.env, wrapped.pass_fds
            program = Program(
                argv=argv,
                env=env,
                workspace=workspace,
                timeout_s=attempt.timeout_s,
                output_max_bytes=parameters.output_max_bytes,
                memory_max_mb=parameters.memory_max_mb,
                stdin=stdin,
                pass_fds=pass_fds,
                sandboxed=host.sandbox is not None,
                started=lambda pid: host.workspaces.mark(workspace, pid, keep=parameters.keep),
                heard=lambda: report(SIGN_OF_LIFE),
            )
            async with usage_file.watched(workspace, report):
                ended = await run_program(program, token, host.warden)
        if host.sandbox is not None and ended.exit_code == 1 and ended.stderr.startswith(_BWRAP_NOT_FOUND):
            sentence = f"There is no program {parameters.argv[0]!r} inside the sandbox."
            raise NotStarted(sentence, lasting=True, exit_code=127)
        redactor = Redactor(host.secrets.values(), resolver.used)
        result = await self._result(ended, redactor, workspace, keep=parameters.keep)
        try:
            usage = usage_file.usage_in(workspace)
        except usage_file.Unreadable as error:
            usage, result["unknown"] = None, {"usage": str(error)}
        return replace(_outcome(ended, result, attempt, parameters, token), usage=usage)

    async def _result(self, ended: Ended, redactor: Redactor, workspace: Path, *, keep: bool) -> dict[str, Any]:
        blobs = self._host.blobs
        result: dict[str, Any] = {"exit_code": ended.exit_code}
        signal_name = _signal_name(ended.exit_code)
        if signal_name is not None:
            result["signal"] = signal_name
        result |= await kept("stdout", redactor.bytes(ended.stdout), blobs)
        result |= await kept("stderr", redactor.bytes(ended.stderr), blobs)
        result |= await asyncio.to_thread(list_files, workspace)
        result["duration_s"] = round(ended.duration_s, 6)
        result["sandbox"] = self._sandbox_name
        if keep:
            result["workspace"] = str(workspace)
        return result

    def _nothing(self, exit_code: int) -> dict[str, Any]:
        """The result of a program that never ran, with the exit code that a shell would give."""
        streams = {"stdout": "", "stdout_bytes": 0, "stderr": "", "stderr_bytes": 0}
        rest = {"files": [], "files_omitted": 0, "duration_s": 0.0, "sandbox": self._sandbox_name}
        return {"exit_code": exit_code, **streams, **rest}

    @property
    def _sandbox_name(self) -> str:
        return "none" if self._host.sandbox is None else self._host.sandbox.name


def _outcome(
    ended: Ended, result: dict[str, Any], attempt: Attempt, parameters: CommandParameters, token: CancelToken
) -> Outcome:
    match ended.verdict:
        case "timed_out":
            return Outcome(outcome="timed_out", result=result, error=timed_out_sentence(attempt))
        case "cancelled":
            return Outcome(outcome="cancelled", result=result, error=cancelled_sentence(token))
        case "output_limit":
            sentence = f"It wrote more than {parameters.output_max_bytes} bytes (output_max_bytes) and was stopped."
            return Outcome(outcome="output_limit", result=result, error=sentence, retryable=False)
        case "exited":
            if ended.exit_code == 0:
                return Outcome(outcome="completed", result=result)
            return Outcome(outcome="failed", result=result, error=_failure_sentence(parameters, result))


def _failure_sentence(parameters: CommandParameters, result: dict[str, Any]) -> str:
    first = parameters.argv[0]
    program = first if isinstance(first, str) else "The program"
    how = f"was killed by {result['signal']}" if "signal" in result else f"exited with code {result['exit_code']}"
    last_line = result["stderr"].rstrip().rpartition("\n")[2][:LAST_LINE_MAX_CHARS]
    return f"{program} {how}: {last_line}" if last_line else f"{program} {how}."


def _signal_name(exit_code: int | None) -> str | None:
    """The signal by the shell's convention: 128 + n. A program that chooses such a code itself is read the same."""
    if exit_code is None or exit_code <= 128:
        return None
    try:
        return signal.Signals(exit_code - 128).name
    except ValueError:
        return None


def timed_out_sentence(attempt: Attempt) -> str:
    """Why an attempt was stopped at its wall-clock limit."""
    return f"It ran longer than {attempt.timeout_s:g} s (timeout_s) and was stopped."


def cancelled_sentence(token: CancelToken) -> str:
    """Why an attempt was stopped on demand."""
    return f"It was cancelled: {token.reason}." if token.reason else "It was cancelled."
