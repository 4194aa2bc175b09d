"""Reasons not to start: each is one sentence and a remedy on stderr, exit code 1, and no traceback."""

import os
import re
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.entrypoints.program import RunningProgram, alive, until


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a program that did some work and ended. Tests copy it."""
    root = tmp_path_factory.mktemp("kept") / "data"
    with RunningProgram(root) as program:
        program.ended(program.submit("echo", "kept")["task_id"])
        assert program.terminate() == 0
    return root


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another such directory, with a longer history."""
    root = tmp_path_factory.mktemp("other") / "data"
    with RunningProgram(root) as program:
        for _ in range(3):
            program.ended(program.submit("echo", "other")["task_id"])
        assert program.terminate() == 0
    return root


@pytest.fixture
def stopped(kept: Path, data_dir: Path) -> RunningProgram:
    shutil.copytree(kept, data_dir)
    return RunningProgram(data_dir)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def said(program: RunningProgram) -> tuple[str, str]:
    """The sentence and the remedy of a refused start; log lines before them aside. Nothing is left running."""
    words = program.refused()
    assert "Traceback" not in words
    lines = words.splitlines()
    [at] = [number for number, line in enumerate(lines) if line.startswith("hivebus: ")]
    sentence, remedy = lines[at], " ".join(lines[at + 1 :])
    assert lines[at + 1].startswith("  "), words
    assert remedy.strip()
    pid = program.root / "broker" / "nats-server.pid"
    if pid.exists():
        number = int(pid.read_text().split()[0])
        until(lambda: not alive(number), what="the broker to be gone")
    return sentence, remedy


@pytest.mark.parametrize("setting", ["HIVEBUS_API_PORT", "HIVEBUS_METRICS_PORT"])
def test_a_port_in_use_names_its_holder_and_the_setting(data_dir: Path, taken: int, setting: str) -> None:
    sentence, remedy = said(RunningProgram(data_dir, **{setting: str(taken)}))
    assert f"Port {taken} " in sentence
    assert f"(pid {os.getpid()}) holds it" in sentence
    assert f"{setting}={taken + 1}" in remedy


def test_a_brokers_port_in_use_is_named_too(data_dir: Path, taken: int) -> None:
    sentence, remedy = said(RunningProgram(data_dir, HIVEBUS_NATS_PORT=str(taken)))
    assert f"Port {taken} " in sentence
    assert f"(pid {os.getpid()}) holds it" in sentence
    assert f"HIVEBUS_NATS_PORT={taken + 1}" in remedy


@pytest.mark.parametrize("address", ["no.such.host.invalid", "203.0.113.1"])
def test_an_address_of_somebody_else_is_refused(data_dir: Path, address: str) -> None:
    sentence, remedy = said(RunningProgram(data_dir, HIVEBUS_BIND=address))
    assert address in sentence
    assert "HIVEBUS_BIND" in remedy


def test_a_data_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a directory")
    for root in (file, Path("/dev/null/x")):
        program = RunningProgram(tmp_path / "unused", HIVEBUS_DATA_DIR=str(root))
        sentence, remedy = said(program)
        assert f"The data directory {root} cannot be written" in sentence
        assert "HIVEBUS_DATA_DIR=" in remedy


def test_a_second_program_on_the_same_data_is_refused_and_the_first_goes_on(data_dir: Path) -> None:
    with RunningProgram(data_dir) as first:
        second = RunningProgram(data_dir.with_name("second"), HIVEBUS_DATA_DIR=str(data_dir))
        sentence, remedy = said_beside(second)
        assert f"Another Hivebus (pid {first.pid}) runs on the data directory {data_dir}." in sentence
        assert "HIVEBUS_DATA_DIR=" in remedy
        assert first.ended(first.submit("true")["task_id"])["status"] == "completed"
        assert first.connection["pid"] == first.pid


def said_beside(program: RunningProgram) -> tuple[str, str]:
    words = program.refused()
    assert "Traceback" not in words
    sentence, remedy = words.splitlines()
    return sentence, remedy


def test_a_log_of_another_history_is_refused(stopped: RunningProgram, other: Path) -> None:
    shutil.rmtree(stopped.root / "nats")
    shutil.copytree(other / "nats", stopped.root / "nats")
    sentence, remedy = said(stopped)
    assert "different commits at position" in sentence
    sides = re.findall(
        r"(Log|Store) \(to \d+\): commit ([0-9a-f-]{36}) of \S+ on hive\.log\.\S+, leaf ([0-9a-f]+)", sentence
    )
    assert [side for side, *_ in sides] == ["Log", "Store"]
    assert sides[0][1:] != sides[1][1:]
    assert "hivebus log diverge" in remedy


def test_a_log_that_lost_everything_gets_it_back_from_the_store(stopped: RunningProgram) -> None:
    shutil.rmtree(stopped.root / "nats")
    with stopped:
        state = stopped.get("/api/status")["log"]
        assert (state["state"], state["restored"]) == ("equal", state["lost"])
        assert state["lost"] > 0
        assert stopped.get("/api/tasks")["tasks"][0]["status"] == "completed"


def test_a_store_that_lost_its_tail_catches_up_from_the_log(stopped: RunningProgram) -> None:
    """The other way round is no reason not to start: the log is ahead, and the recorder follows."""
    for path in stopped.root.glob("store.db*"):
        path.unlink()
    with stopped:
        assert stopped.get("/api/tasks")["tasks"][0]["status"] == "completed"


def test_a_data_directory_of_a_newer_version_is_refused_before_anything_is_opened(stopped: RunningProgram) -> None:
    (stopped.root / "format.json").write_text('{"format": 99, "program": "9.1.0"}')
    sentence, remedy = said(stopped)
    assert "written by Hivebus 9.1.0" in sentence
    assert "into another directory" in remedy
    assert (stopped.root / "format.json").read_text() == '{"format": 99, "program": "9.1.0"}'


@pytest.mark.parametrize("name", ["store.db", "views.db"])
def test_a_database_that_is_none_is_refused(stopped: RunningProgram, name: str) -> None:
    for path in stopped.root.glob(f"{name}*"):
        path.unlink()
    (stopped.root / name).write_bytes(b"this is no database " * 1000)
    assert "not a database" in said(stopped)[0]


def test_a_damaged_key_is_refused_and_a_removed_one_is_made_again(stopped: RunningProgram) -> None:
    key = stopped.root / "admin.key"
    for content in (b"hello\n", b"\xff\xfe"):
        key.write_bytes(content)
        sentence, remedy = said(stopped)
        assert str(key) in sentence
        assert "new key" in remedy
    key.unlink()
    with stopped:
        assert stopped.get("/api/tasks")["pagination"]["total"] == 1


def test_views_that_were_removed_are_folded_again(stopped: RunningProgram) -> None:
    for path in stopped.root.glob("views.db*"):
        path.unlink()
    with stopped:
        [task] = stopped.get("/api/tasks")["tasks"]
        assert stopped.task(task["id"])["result"]["stdout"] == "kept\n"


def test_a_stale_connection_file_deceives_nobody(stopped: RunningProgram) -> None:
    (stopped.root / "connection.json").write_text('{"url": "http://127.0.0.1:1", "pid": 1}')
    with stopped:
        assert stopped.connection["pid"] == stopped.pid


def test_the_store_is_a_database_of_its_own(kept: Path) -> None:
    """What the tests above remove is what they say."""
    with sqlite3.connect(f"file:{kept / 'store.db'}?mode=ro", uri=True) as store:
        assert store.execute("select count(*) from commits").fetchone()[0] > 5
