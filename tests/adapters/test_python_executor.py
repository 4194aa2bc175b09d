from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from adapters.executors import functions
from adapters.executors.functions import Functions
from adapters.executors.host import Host
from adapters.executors.python import PythonExecutor
from core.execution import CancelToken, Outcome, Progress, Usage
from tests.adapters.executing import a_host, alive, an_attempt, silent, until

NAMES = [
    "add",
    "fail",
    "leave",
    "die",
    "spin",
    "big",
    "unjsonable",
    "look_around",
    "look_around_async",
    "fail_async",
    "leave_async",
    "stubborn",
    "paint",
    "paint_async",
    "buy",
    "buy_async",
    "cheat",
    "not_callable",
    "missing",
]
REGISTERED = {name: EntryPoint(name, f"tests.adapters.task_functions:{name}", functions.GROUP) for name in NAMES}
SECRET = "correct horse battery staple"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with a_host(tmp_path, MY_KEY=SECRET) as host:
        yield host


async def call(host: Host, function: str, timeout_s: float = 20, grace_s: float = 5, **arguments: Any) -> Outcome:
    attempt = an_attempt("python", function=function, arguments=arguments, timeout_s=timeout_s)
    return await PythonExecutor(host, Functions(REGISTERED)).run(attempt, CancelToken(grace_s), silent)


def test_the_built_in_functions_are_known() -> None:
    assert {"echo", "noop", "sleep"} <= set(functions.known())


async def test_a_built_in_async_function_runs_in_the_loop(host: Host, tmp_path: Path) -> None:
    attempt = an_attempt("python", function="echo", arguments={"a": [1, None], "b": "two"})
    outcome = await PythonExecutor(host).run(attempt, CancelToken(), silent)
    assert outcome.result is not None
    assert outcome.result.pop("duration_s") >= 0
    why = "an async function runs inside the agent host"
    assert outcome == Outcome(
        outcome="completed",
        result={
            "value": {"a": [1, None], "b": "two"},
            "exit_code": None,
            "stdout": None,
            "stderr": None,
            "files": [],
            "files_omitted": 0,
            "unknown": {"exit_code": why, "stdout": why, "stderr": why},
        },
    )
    assert not (tmp_path / "workspaces").exists()


async def test_a_plain_function_runs_in_a_process_of_its_own(host: Host) -> None:
    outcome = await call(host, "add", a=2, b=3)
    assert outcome.result is not None
    assert outcome.result.pop("duration_s") > 0
    assert outcome == Outcome(
        outcome="completed",
        result={
            "value": 5,
            "exit_code": 0,
            "stdout": "adding\n",
            "stdout_bytes": 7,
            "stderr": "",
            "stderr_bytes": 0,
            "files": [],
            "files_omitted": 0,
        },
    )


@pytest.mark.parametrize("function", ["fail", "fail_async"])
async def test_an_exception_fails_with_its_type_message_and_traceback(host: Host, function: str) -> None:
    outcome = await call(host, function, message=f"not with {SECRET}")
    assert outcome.result is not None
    assert (outcome.outcome, outcome.retryable) == ("failed", True)
    assert outcome.error == "ValueError: not with [secret MY_KEY]"
    assert "raise ValueError(message)" in outcome.result["stderr"]
    assert SECRET not in outcome.result["stderr"]


@pytest.mark.parametrize("function", ["leave", "leave_async"])
async def test_a_function_that_exits_fails_and_the_program_goes_on(host: Host, function: str) -> None:
    outcome = await call(host, function)
    assert outcome.outcome == "failed"
    assert "SystemExit" in (outcome.error or "")


async def test_a_process_that_dies_fails_with_its_signal(host: Host) -> None:
    outcome = await call(host, "die")
    assert (outcome.outcome, outcome.error) == ("failed", "die: its process ended with code 137 and without a result.")


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        ("unheard_of", {}, "known are add, big,"),
        ("missing", {}, "could not be imported: AttributeError"),
        ("not_callable", {}, "could not be imported: TypeError"),
        ("add", {}, "missing a required argument: 'a'"),
        ("add", {"a": 1, "c": 2}, "unexpected keyword argument 'c'"),
        ("look_around", {"task": 1}, "it is no argument"),
        ("add", {"a": {"secret": "OTHER"}}, "There is no secret OTHER"),
        ("unjsonable", {}, "TypeError"),
        ("big", {"size": 1024 * 1024}, "a result takes 1048576"),
    ],
)
async def test_what_can_never_work_fails_for_good(
    host: Host, function: str, arguments: dict[str, Any], said: str
) -> None:
    outcome = await call(host, function, **arguments)
    assert (outcome.outcome, outcome.retryable) == ("failed", False)
    assert said in (outcome.error or "")


async def test_a_large_value_goes_to_a_blob(host: Host) -> None:
    outcome = await call(host, "big", size=20_000)
    assert outcome.result is not None
    assert outcome.result["value"] is None
    whole = await host.blobs.get(outcome.result["value_blob"]["sha256"])
    assert whole is not None
    assert msgspec.json.decode(whole) == "x" * 20_000
    assert outcome.result["value_blob"]["size"] == len(whole)


@pytest.mark.parametrize(
    ("function", "reported"),
    [
        ("look_around", Progress(progress=0.5, current_step="looking")),
        ("look_around_async", Progress(progress=0.25, steps_completed=1, total_steps=4)),
    ],
)
async def test_a_function_that_asks_for_its_task_gets_it(
    host: Host, tmp_path: Path, function: str, reported: Progress
) -> None:
    reports: list[Progress] = []
    attempt = an_attempt("python", function=function)
    outcome = await PythonExecutor(host, Functions(REGISTERED)).run(attempt, CancelToken(), reports.append)
    assert outcome.result is not None, outcome
    assert outcome.result["value"] in ("task", {"id": "task", "attempt": 1, "cwd": True})
    assert [file["path"] for file in outcome.result["files"]] == ["made.txt"]
    assert reports == [reported]
    assert not list((tmp_path / "workspaces").glob("*"))


async def test_a_plain_function_that_takes_too_long_is_killed_with_its_children(host: Host, tmp_path: Path) -> None:
    pid_file = tmp_path / "pids"
    token = CancelToken(grace_s=0.2)
    attempt = an_attempt("python", function="spin", arguments={"pid_file": str(pid_file)}, timeout_s=60)
    running = asyncio.create_task(PythonExecutor(host, Functions(REGISTERED)).run(attempt, token, silent))
    await until(pid_file.exists)
    token.cancel("enough")
    outcome = await running
    assert (outcome.outcome, outcome.error) == ("cancelled", "It was cancelled: enough.")
    for pid in map(int, pid_file.read_text().split()):
        await until(lambda pid=pid: not alive(pid))  # type: ignore[misc]


async def test_an_async_function_is_cancelled_at_its_time_limit(host: Host) -> None:
    attempt = an_attempt("python", function="sleep", arguments={"seconds": 300}, timeout_s=0.05)
    outcome = await PythonExecutor(host).run(attempt, CancelToken(), silent)
    assert (outcome.outcome, outcome.error) == (
        "timed_out",
        "It ran longer than 0.05 s (timeout_s) and was stopped.",
    )


async def test_an_async_function_that_returns_on_cancellation_is_still_timed_out(host: Host) -> None:
    assert (await call(host, "stubborn", timeout_s=0.05)).outcome == "timed_out"


async def test_secrets_are_resolved_in_arguments_and_redacted_in_values(host: Host) -> None:
    attempt = an_attempt("python", function="echo", arguments={"deep": [{"secret": "MY_KEY"}]})
    outcome = await PythonExecutor(host).run(attempt, CancelToken(), silent)
    assert outcome.result is not None
    assert outcome.result["value"] == {"deep": ["[secret MY_KEY]"]}


@pytest.mark.parametrize(("function", "choices"), [("paint", ["red", "blue"]), ("paint_async", None)])
async def test_a_question_ends_the_attempt_and_the_next_one_gets_the_answer(
    host: Host, function: str, choices: list[str] | None
) -> None:
    executor = PythonExecutor(host, Functions(REGISTERED))
    attempt = an_attempt("python", function=function)
    outcome = await executor.run(attempt, CancelToken(), silent)
    assert outcome == Outcome(outcome="input_required", question="Which colour?", choices=choices)
    answered = msgspec.structs.replace(attempt, answers=[{"question": "Which colour?", "answer": "blue"}])
    outcome = await executor.run(answered, CancelToken(), silent)
    assert outcome.result is not None
    assert outcome.result["value"] == "painted blue"


async def test_a_question_holds_no_secret(host: Host) -> None:
    outcome = await call(host, "paint_async", key=SECRET)
    assert outcome.question == "Which colour?[secret MY_KEY]"


@pytest.mark.parametrize("function", ["buy", "buy_async"])
async def test_a_function_says_what_it_used_and_knows_what_is_left(host: Host, function: str) -> None:
    told: list[Progress] = []
    attempt = replace(an_attempt("python", function=function), left=Usage(tokens=9))
    outcome = await PythonExecutor(host, Functions(REGISTERED)).run(attempt, CancelToken(), told.append)
    assert outcome.result is not None
    assert outcome.result["value"] == {"tokens_left": 9, "cost_left": None}
    assert told == [Progress(usage=Usage(tokens=5)), Progress(usage=Usage(tokens=7, cost=0.25))]


@pytest.mark.parametrize(("tokens", "why"), [(-1, "0 or more"), (1.5, "whole number")])
async def test_nobody_used_less_than_nothing(host: Host, tokens: float, why: str) -> None:
    outcome = await call(host, "cheat", tokens=tokens)
    assert outcome.outcome == "failed"
    assert why in (outcome.error or "")
