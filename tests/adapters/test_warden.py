from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.executors.warden import Warden
from adapters.executors.workspace import Swept, Workspaces
from tests.adapters.executing import alive, an_attempt, until

ROOT = Path(__file__).resolve().parents[2]

# A program in miniature: it runs one command whose grandchildren write their pids, and waits until it is killed.
PROGRAM = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from adapters.executors.command import CommandExecutor
from core.execution import CancelToken
from tests.adapters.executing import a_host, an_attempt, silent

async def main(data_dir, pids):
    async with a_host(data_dir) as host:
        print(host.warden.pid, flush=True)
        note = f"echo $$ >> {pids}; exec sleep 300"
        leavers = f"setsid sh -c '{note}' & " if sys.platform == "linux" else ""
        script = f"trap '' TERM; sh -c '{note}' & {leavers} sh -c '({note}) & wait' & echo $$ >> {pids}; wait"
        attempt = an_attempt("command", argv=["sh", "-c", script], timeout_s=600)
        await CommandExecutor(host).run(attempt, CancelToken(), silent)

asyncio.run(main(Path(sys.argv[2]), sys.argv[3]))
"""


def start_program(data_dir: Path, pids: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", PROGRAM, str(ROOT), str(data_dir), str(pids)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE)


def sleeper(env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "300"], start_new_session=True, env=env)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


async def test_no_process_survives_a_kill_of_the_program(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = start_program(tmp_path, pids)
    assert program.stdout is not None
    with program.stdout:
        warden = int(program.stdout.readline())
        wanted = 4 if sys.platform == "linux" else 3
        await until(lambda: pids.exists() and len(pids.read_text().split()) == wanted)
        grandchildren = [int(pid) for pid in pids.read_text().split()]
        assert all(map(alive, grandchildren))
        program.send_signal(signal.SIGKILL)
        program.wait()
    await until(lambda: not any(map(alive, [*grandchildren, warden])))


async def test_closing_kills_what_is_held_and_spares_what_was_released(tmp_path: Path) -> None:
    warden = Warden(tmp_path)
    await warden.start()
    held, released = sleeper(), sleeper()
    try:
        warden.register(held.pid)
        warden.release(warden.register(released.pid))
        await warden.close()
        assert await asyncio.to_thread(held.wait) == -signal.SIGKILL
        assert released.poll() is None
    finally:
        end(held)
        end(released)


async def test_a_warden_ignores_what_asks_it_to_stop(tmp_path: Path) -> None:
    warden = Warden(tmp_path)
    await warden.start()
    held = sleeper()
    try:
        warden.register(held.pid)
        assert warden.pid is not None
        pid = warden.pid
        await until(lambda: ignores(pid, signal.SIGTERM))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        warden.reserve()
        assert warden.pid == pid
        assert held.poll() is None
        await warden.close()
        assert await asyncio.to_thread(held.wait) == -signal.SIGKILL
    finally:
        end(held)


def ignores(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return True  # macOS shows no masks; the assertions that follow still hold once the warden is up
    line = next(line for line in status.read_text().splitlines() if line.startswith("SigIgn"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


async def test_a_killed_warden_comes_back_with_all_it_held(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    warden = Warden(tmp_path)
    await warden.start()
    held = sleeper()
    try:
        warden.register(held.pid)
        first = warden.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: not alive(first))
        warden.reserve()
        assert warden.pid != first
        assert "started again" in caplog.text
        await warden.close()
        assert await asyncio.to_thread(held.wait) == -signal.SIGKILL
    finally:
        end(held)


async def test_a_start_sweeps_what_an_earlier_program_left(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)
    left, kept, innocent = (an_attempt("command", task_id=name) for name in ("left", "kept", "innocent"))
    places = [workspaces.create(attempt) for attempt in (left, kept, innocent)]
    marked = sleeper()
    hidden = sleeper(workspaces.environment(kept))
    stranger = sleeper()
    try:
        workspaces.mark(places[0], marked.pid, keep=False)
        workspaces.mark(places[1], marked.pid, keep=True)
        workspaces.mark(places[2], stranger.pid, keep=False)
        mark = places[2].with_name("1.running")
        mark.write_bytes(mark.read_bytes().replace(b'"started":', b'"started":1'))  # the pid was another's then
        swept = await asyncio.to_thread(workspaces.sweep)
        assert await asyncio.to_thread(marked.wait) == -signal.SIGKILL
        assert stranger.poll() is None
        assert [place.exists() for place in places] == [False, True, False]
        if sys.platform == "linux":
            assert await asyncio.to_thread(hidden.wait) == -signal.SIGKILL
        assert swept.workspaces == 3
        assert await asyncio.to_thread(workspaces.sweep) == Swept(processes=0, workspaces=0)
    finally:
        for process in (marked, hidden, stranger):
            end(process)
