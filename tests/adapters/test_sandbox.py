from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.executors.command import CommandExecutor
from adapters.executors.host import Host
from adapters.executors.sandbox import Sandbox
from core.execution import CancelToken, Outcome
from tests.adapters.executing import DEADLINE_S, a_host, an_attempt, silent, until

pytestmark = [pytest.mark.peers, pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is a Linux program")]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    sandbox = await Sandbox.probe(tmp_path)
    if sandbox is None:
        pytest.skip("bubblewrap does not work on this machine")
    (tmp_path / "admin.key").write_text("the key of the house")
    async with a_host(tmp_path, sandbox=sandbox, MY_KEY="correct horse battery staple") as host:
        yield host


async def run(host: Host, script: str, *, timeout_s: float = DEADLINE_S, grace_s: float = 5, **more: object) -> Outcome:
    attempt = an_attempt("command", argv=["sh", "-c", script], timeout_s=timeout_s, **more)
    return await CommandExecutor(host).run(attempt, CancelToken(grace_s), silent)


def missing(*paths: str) -> bool:
    return not any(Path(path).exists() for path in paths)


def stdout(outcome: Outcome) -> str:
    assert outcome.result is not None
    assert outcome.result["sandbox"] == "bubblewrap"
    return str(outcome.result["stdout"])


async def test_a_sandboxed_command_writes_its_workspace_and_nothing_else(host: Host) -> None:
    outcome = await run(host, "pwd; echo $HIVEBUS_WORKSPACE; echo x > mine; touch /usr/mine /etc/mine; echo y > /tmp/z")
    here, workspace = stdout(outcome).split()
    assert here == workspace
    assert outcome.result is not None
    assert [file["path"] for file in outcome.result["files"]] == ["mine"]
    assert missing("/usr/mine", "/etc/mine", "/tmp/z")


async def test_root_inside_cannot_make_the_machine_writable(host: Host) -> None:
    outcome = await run(host, "mount -o remount,rw / 2>/dev/null && touch /usr/mine; true")
    assert outcome.outcome == "completed"
    assert missing("/usr/mine")


async def test_the_data_directory_is_hidden_but_for_the_workspace(host: Host, tmp_path: Path) -> None:
    outcome = await run(host, f"ls -A {tmp_path}; ls -A {tmp_path}/workspaces/task; cat {tmp_path}/admin.key")
    assert stdout(outcome) == "workspaces\n1\n"
    assert outcome.outcome == "failed"


async def test_other_processes_are_out_of_sight(host: Host) -> None:
    assert int(stdout(await run(host, "ls -d /proc/[0-9]* | wc -l"))) < 8


async def test_without_network_there_is_only_loopback(host: Host) -> None:
    assert stdout(await run(host, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '", network=False)) == "lo\n"


async def test_secrets_are_in_the_environment_and_on_no_command_line(host: Host) -> None:
    script = 'test "$KEY" = "correct horse battery staple" && sleep 300'
    token = CancelToken()
    attempt = an_attempt(
        "command", argv=["sh", "-c", script + " # marked-by-this-test"], env={"KEY": {"secret": "MY_KEY"}}
    )
    running = asyncio.create_task(CommandExecutor(host).run(attempt, token, silent))
    own: list[bytes] = []

    def seen() -> bool:
        own[:] = [line for line in command_lines() if b"marked-by-this-test" in line]
        return len(own) >= 3  # the wrapper, its namespace's first process, the shell

    await until(seen)
    token.cancel("seen enough")
    await running
    # The script itself spells the value out; beside it the value must not occur.
    assert all(line.count(b"correct horse") == 1 for line in own)


def command_lines() -> list[bytes]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue
    return lines


async def test_a_preloaded_library_of_the_task_stays_inside(host: Host) -> None:
    outcome = await run(host, "echo inside", env={"LD_PRELOAD": "/nonexistent-library.so"})
    assert outcome.result is not None
    # The loader complains once for each program it starts with the variable: the shell, never bubblewrap.
    assert outcome.result["stderr"].count("/nonexistent-library.so") <= 1
    assert stdout(outcome) == "inside\n"


async def test_the_grace_reaches_the_program_inside(host: Host) -> None:
    script = "trap 'echo tidied up; exit 0' TERM; echo begun; while :; do sleep 0.05; done"
    outcome = await run(host, script, timeout_s=0.5)
    assert (outcome.outcome, stdout(outcome)) == ("timed_out", "begun\ntidied up\n")


async def test_what_ignores_the_grace_is_killed_with_its_namespace(host: Host, tmp_path: Path) -> None:
    marker = "300.4711"
    outcome = await run(
        host, f"trap '' TERM; setsid sleep {marker} & while :; do sleep 0.05; done", timeout_s=0.4, grace_s=0.2
    )
    assert outcome.outcome == "timed_out"
    await until(lambda: not any(marker.encode() in line for line in command_lines()))


async def test_a_program_that_is_not_inside_fails_for_good(host: Host) -> None:
    outcome = await CommandExecutor(host).run(an_attempt("command", argv=["no-such"]), CancelToken(), silent)
    assert outcome.result is not None
    assert (outcome.outcome, outcome.retryable, outcome.result["exit_code"]) == ("failed", False, 127)


async def test_death_by_a_signal_is_told_by_the_shells_convention(host: Host) -> None:
    outcome = await run(host, "kill -KILL $$")
    assert outcome.result is not None
    assert (outcome.result["exit_code"], outcome.result["signal"]) == (137, "SIGKILL")


async def test_what_the_words_name_under_tmp_can_be_read_and_its_neighbours_cannot(host: Host) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as named, tempfile.TemporaryDirectory(dir="/tmp") as neighbour:
        (Path(named) / "letter").write_text("hello\n")
        (Path(neighbour) / "letter").write_text("not yours\n")
        script = f'cat "$1"; touch "$1" 2>/dev/null && echo written; ls {neighbour} 2>/dev/null; true'
        attempt = an_attempt("command", argv=["sh", "-c", script, "sh", f"{named}/letter"])
        outcome = await CommandExecutor(host).run(attempt, CancelToken(5), silent)
        assert stdout(outcome) == "hello\n"
