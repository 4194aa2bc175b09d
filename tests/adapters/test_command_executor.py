from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop
from msgspec.structs import replace

from adapters.executors.command import CommandExecutor
from adapters.executors.host import Host
from adapters.executors.warden import WORKSPACE_VARIABLE
from adapters.memory.blobs import MemoryBlobs
from core.execution import Attempt, CancelToken, Outcome, Progress, Usage
from tests.adapters.executing import FixedSecrets, a_host, alive, an_attempt, silent, until

SECRET = "correct horse battery staple"
MIB = 1024 * 1024


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with a_host(tmp_path, MY_KEY=SECRET) as host:
        yield host


async def run(host: Host, attempt: Attempt, *, grace_s: float = 5.0) -> Outcome:
    return await CommandExecutor(host).run(attempt, CancelToken(grace_s), silent)


def python(code: str, **more: object) -> Attempt:
    return an_attempt("command", argv=[sys.executable, "-I", "-S", "-c", code], **more)  # type: ignore[arg-type]


def shell(script: str, **more: object) -> Attempt:
    return an_attempt("command", argv=["sh", "-c", script], **more)  # type: ignore[arg-type]


async def test_a_command_that_succeeds_is_completed_with_its_output(host: Host) -> None:
    outcome = await run(host, shell("echo out; echo err >&2; echo hello > made.txt; mkdir d; echo x > d/deep"))
    assert outcome.result is not None
    duration_s = outcome.result.pop("duration_s")
    assert 0 < duration_s < 10
    assert outcome == Outcome(
        outcome="completed",
        result={
            "exit_code": 0,
            "stdout": "out\n",
            "stdout_bytes": 4,
            "stderr": "err\n",
            "stderr_bytes": 4,
            "files": [
                {
                    "path": "made.txt",
                    "size": 6,
                    "sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
                },
                {
                    "path": "d/deep",
                    "size": 2,
                    "sha256": "73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac",
                },
            ],
            "files_omitted": 0,
            "sandbox": "none",
        },
    )


async def test_a_non_zero_exit_is_a_failure_that_may_be_tried_again(host: Host) -> None:
    outcome = await run(host, shell("echo first >&2; echo no such luck >&2; exit 3"))
    assert (outcome.outcome, outcome.retryable) == ("failed", True)
    assert outcome.error == "sh exited with code 3: no such luck"


async def test_death_by_a_signal_names_it(host: Host) -> None:
    outcome = await run(host, shell("kill -SEGV $$"))
    assert outcome.result is not None
    assert (outcome.outcome, outcome.result["exit_code"], outcome.result["signal"]) == ("failed", 139, "SIGSEGV")


@pytest.mark.parametrize(("program", "code"), [("no-such-program", 127), ("./no-such-file", 127), ("/", 126)])
async def test_a_missing_program_fails_for_good(host: Host, program: str, code: int) -> None:
    outcome = await run(host, an_attempt("command", argv=[program]))
    assert outcome.result is not None
    assert (outcome.outcome, outcome.retryable, outcome.result["exit_code"]) == ("failed", False, code)
    assert program in (outcome.error or "")


async def test_a_command_that_takes_too_long_is_stopped(host: Host) -> None:
    outcome = await run(
        host, shell("trap 'echo tidied up; exit 0' TERM; echo begun; while :; do sleep 0.05; done", timeout_s=0.5)
    )
    assert outcome.result is not None
    assert (outcome.outcome, outcome.result["stdout"]) == ("timed_out", "begun\ntidied up\n")
    assert outcome.error == "It ran longer than 0.5 s (timeout_s) and was stopped."


async def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(host: Host) -> None:
    began = time.monotonic()
    outcome = await run(host, shell("trap '' TERM; while :; do sleep 0.05; done", timeout_s=0.2), grace_s=0.3)
    assert outcome.result is not None
    assert (outcome.outcome, outcome.result["signal"]) == ("timed_out", "SIGKILL")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("leave", ["", "setsid "], ids=["in the group", "in a session of its own"])
@pytest.mark.skipif(sys.platform != "linux", reason="setsid is a Linux program")
async def test_no_grandchild_outlives_the_command(host: Host, leave: str, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = (
        f"{leave}sleep 300 & echo $! >> {pids}; {leave}sh -c 'echo $$ >> {pids}; exec sleep 300' >/dev/null 2>&1 & "
    )
    script += f"while [ $(wc -l < {pids}) -lt 2 ]; do sleep 0.01; done"
    outcome = await run(host, shell(script))
    assert outcome.outcome == "completed", outcome
    for pid in map(int, pids.read_text().split()):
        await until(lambda pid=pid: not alive(pid))  # type: ignore[misc]


async def test_long_output_is_cut_in_the_middle_and_whole_in_a_blob(host: Host) -> None:
    outcome = await run(host, python("import sys; sys.stdout.write('begin' + 'x' * 10_000_000 + 'end')"))
    assert outcome.result is not None
    result = outcome.result
    assert result["stdout"].startswith("beginxxx")
    assert "[... 9983624 bytes left out ...]" in result["stdout"]
    assert result["stdout"].endswith("xxxend")
    assert len(result["stdout"]) < 17_000
    whole = await host.blobs.get(result["stdout_blob"]["sha256"])
    assert whole == b"begin" + b"x" * 10_000_000 + b"end"
    assert result["stdout_bytes"] == result["stdout_blob"]["size"] == 10_000_008


async def test_output_over_the_limit_stops_the_command(host: Host) -> None:
    outcome = await run(host, an_attempt("command", argv=["yes"], output_max_bytes=100_000))
    assert outcome.result is not None
    assert (outcome.outcome, outcome.retryable, outcome.result["stdout_bytes"]) == ("output_limit", False, 100_000)


async def test_output_just_over_the_limit_is_not_cut_in_silence(host: Host) -> None:
    outcome = await run(host, an_attempt("command", argv=["echo", "123"], output_max_bytes=3))
    assert (outcome.outcome, outcome.result and outcome.result["stdout"]) == ("output_limit", "123")
    assert (await run(host, an_attempt("command", argv=["echo", "123"], output_max_bytes=4))).outcome == "completed"


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS holds on Linux only")
async def test_memory_over_the_limit_fails_the_command(host: Host) -> None:
    argv = [sys.executable, "-I", "-S", "-c", "print(len(bytearray(200 * 1024 * 1024)))"]
    outcome = await run(host, an_attempt("command", argv=argv, memory_max_mb=128))
    assert outcome.outcome == "failed"
    assert "MemoryError" in (outcome.error or "")
    assert (await run(host, an_attempt("command", argv=argv))).outcome == "completed"


async def test_a_cancelled_command_stops_and_says_why(host: Host, tmp_path: Path) -> None:
    token = CancelToken()
    begun = tmp_path / "begun"
    running = asyncio.create_task(CommandExecutor(host).run(shell(f"touch {begun}; exec sleep 300"), token, silent))
    await until(begun.exists)
    token.cancel("the user asked")
    outcome = await running
    assert (outcome.outcome, outcome.error) == ("cancelled", "It was cancelled: the user asked.")


async def test_a_token_cancelled_beforehand_starts_nothing(host: Host, tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel("too late")
    outcome = await CommandExecutor(host).run(shell("exit 0"), token, silent)
    assert outcome == Outcome(outcome="cancelled", error="It was cancelled: too late.")
    assert not (tmp_path / "workspaces").exists()


async def test_a_cancelled_host_task_kills_the_command(host: Host, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    attempt = shell(f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 300")
    running = asyncio.create_task(run(host, attempt))
    await until(pid_file.exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not alive(int(pid_file.read_text()))
    assert not list((tmp_path / "workspaces").glob("*"))


async def test_secrets_reach_the_command_and_not_its_result(host: Host) -> None:
    given = {"env": {"KEY": {"secret": "MY_KEY"}}, "stdin": {"secret": "MY_KEY"}}
    script = 'test "$KEY" = "$(cat)" && echo "$KEY" && echo "again $KEY" >&2 && exit 4'
    outcome = await run(host, shell(script, **given))
    assert outcome.result is not None
    assert outcome.result["stdout"] == "[secret MY_KEY]\n"
    assert outcome.error == "sh exited with code 4: again [secret MY_KEY]"


async def test_a_secret_that_is_not_there_fails_for_good(host: Host) -> None:
    outcome = await run(host, shell("true", env={"KEY": {"secret": "OTHER"}}))
    assert (outcome.outcome, outcome.retryable) == ("failed", False)
    assert outcome.error == "There is no secret OTHER on this machine."


async def test_blobs_and_private_values_are_resolved_and_private_ones_do_not_come_back(host: Host) -> None:
    data = b"\xff binary \x00 data"
    blob = {"blob": await host.blobs.put(data), "size": len(data)}
    salted = os.urandom(32) + b'"a private word"'
    private = {"private": {"blob": await host.blobs.put(salted), "size": len(salted)}}
    script = 'wc -c; echo "${#1}"; echo "$1"'
    outcome = await run(host, an_attempt("command", argv=["sh", "-c", script, "sh", private], stdin=blob))
    assert outcome.result is not None
    assert outcome.result["stdout"].split() == ["15", str(len("a private word")), "[private]"]


async def test_the_environment_holds_nothing_of_the_server(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEBUS_SECRET_OTHER", "leak")
    monkeypatch.setenv("NATS_PASSWORD", "leak")
    outcome = await run(host, an_attempt("command", argv=["env"], env={"MINE": "1", "HIVEBUS_TASK_ID": "forged"}))
    assert outcome.result is not None
    found = dict(line.split("=", 1) for line in outcome.result["stdout"].splitlines())
    workspace = f"{tmp_path}/workspaces/task/1"
    assert found.pop("PATH")
    assert found == {
        "HOME": workspace,
        "LANG": "C.UTF-8",
        "TMPDIR": f"{workspace}/.tmp",
        "HIVEBUS_DATA_DIR": str(tmp_path),
        "HIVEBUS_TASK_ID": "task",
        "HIVEBUS_AGENT_ID": "agent",
        "HIVEBUS_ATTEMPT": "1",
        "HIVEBUS_USAGE_FILE": f"{workspace}/.tmp/usage.json",
        WORKSPACE_VARIABLE: workspace,
        "MINE": "1",
    }


async def test_a_workspace_is_removed_even_if_its_owner_locked_it(host: Host, tmp_path: Path) -> None:
    outcome = await run(host, shell("mkdir -p a/b && touch a/b/c && chmod 000 a/b a"))
    assert outcome.outcome == "completed"
    assert not list((tmp_path / "workspaces").glob("*"))


async def test_a_kept_workspace_stays_with_its_files(host: Host) -> None:
    outcome = await run(host, shell("echo kept > file", keep=True))
    assert outcome.result is not None
    assert (Path(outcome.result["workspace"]) / "file").read_text() == "kept\n"


async def test_the_list_of_files_is_bounded(host: Host) -> None:
    outcome = await run(host, shell("for i in $(seq 130); do echo > f$i; done"))
    assert outcome.result is not None
    assert (len(outcome.result["files"]), outcome.result["files_omitted"]) == (100, 30)


async def test_no_network_without_a_sandbox_is_refused_not_ignored(host: Host) -> None:
    outcome = await run(host, shell("true", network=False))
    assert (outcome.outcome, outcome.retryable) == ("failed", False)
    assert "no sandbox" in (outcome.error or "")


async def test_a_script_without_an_interpreter_fails_for_good(host: Host, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo no interpreter")
    script.chmod(0o755)
    outcome = await run(host, an_attempt("command", argv=[str(script)]))
    assert (outcome.outcome, outcome.retryable) == ("failed", False)
    assert "begins with #!" in (outcome.error or "")


def test_all_of_it_holds_in_the_loop_that_the_program_uses(tmp_path: Path) -> None:
    async def main() -> tuple[Outcome, ...]:
        host = await Host.open(tmp_path, MemoryBlobs(), FixedSecrets(MY_KEY=SECRET))
        plain = Host(host.workspaces, host.warden, None, host.blobs, host.secrets)
        try:
            stopping = shell("trap 'echo tidied up; exit 0' TERM; while :; do sleep 0.05; done", timeout_s=0.3)
            return (
                await run(host, an_attempt("command", argv=["cat"], stdin={"secret": "MY_KEY"})),
                await run(plain, an_attempt("command", argv=["cat"], stdin={"secret": "MY_KEY"})),
                await run(host, stopping),
                await run(plain, stopping),
                await run(host, an_attempt("command", argv=["no-such-program"])),
                await run(plain, an_attempt("command", argv=["no-such-program"])),
            )
        finally:
            await host.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcomes = runner.run(main())
    seen = [(outcome.outcome, outcome.result and outcome.result["stdout"]) for outcome in outcomes]
    twice = [("completed", "[secret MY_KEY]"), ("timed_out", "tidied up\n"), ("failed", "")]
    assert seen == [each for each in twice for _ in range(2)]


async def test_many_commands_run_side_by_side_and_no_descriptor_is_left(host: Host) -> None:
    await run(host, shell("true"))
    before = len(os.listdir("/dev/fd"))
    attempts = [shell(f"echo {number}", task_id=f"task-{number}") for number in range(20)]
    outcomes = await asyncio.gather(*(run(host, attempt) for attempt in attempts))
    assert [outcome.result["stdout"] for outcome in outcomes if outcome.result] == [f"{n}\n" for n in range(20)]
    assert len(os.listdir("/dev/fd")) <= before + 1  # the loop's own, by its child watcher


async def test_a_program_says_what_it_used_in_a_file(host: Host) -> None:
    told: list[Progress] = []
    script = """echo '{"tokens": 5}' > $HIVEBUS_USAGE_FILE; until test -e go; do sleep 0.01; done
    echo '{"tokens": 7, "cost": 0.25}' > $HIVEBUS_USAGE_FILE"""

    def report(progress: Progress) -> None:
        told.append(progress)
        (host.workspaces.path(attempt) / "go").touch()

    attempt = shell(script)
    outcome = await CommandExecutor(host).run(attempt, CancelToken(), report)
    assert told == [Progress(usage=Usage(tokens=5))]
    assert (outcome.outcome, outcome.usage) == ("completed", Usage(tokens=7, cost=0.25))
    assert outcome.result is not None
    assert [file["path"] for file in outcome.result["files"]] == ["go"]


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("echo many > $HIVEBUS_USAGE_FILE", "is no {tokens, cost}"),
        ("""echo '{"tokens": -1}' > $HIVEBUS_USAGE_FILE""", "is no {tokens, cost}"),
        ("""echo '{"token": 1}' > $HIVEBUS_USAGE_FILE""", "is no {tokens, cost}"),
        ("mkfifo $HIVEBUS_USAGE_FILE", "is no plain file"),
        ("mkdir $HIVEBUS_USAGE_FILE", "is no plain file"),
        ("ln -s /etc/hostname $HIVEBUS_USAGE_FILE", "cannot be read"),
        ("head -c 5000 /dev/zero > $HIVEBUS_USAGE_FILE", "has more than 4096 bytes"),
    ],
)
async def test_what_is_no_usage_is_not_counted_and_said(host: Host, written: str, why: str) -> None:
    outcome = await run(host, shell(written))
    assert (outcome.outcome, outcome.usage) == ("completed", None)
    assert outcome.result is not None
    assert why in outcome.result["unknown"]["usage"]


async def test_a_program_of_a_task_with_a_budget_knows_what_is_left(host: Host) -> None:
    attempt = replace(shell("echo $HIVEBUS_TASK_TOKENS_LEFT $HIVEBUS_TASK_COST_LEFT"), left=Usage(tokens=9, cost=0.5))
    outcome = await run(host, attempt)
    assert outcome.result is not None
    assert outcome.result["stdout"] == "9 0.500000000\n"
