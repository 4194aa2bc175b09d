"""The program on a broker of the user's own: it starts none, serves, outlives the broker's end, and tells no secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.cluster import PASSWORD, Cluster
from tests.entrypoints.program import RunningProgram, until

TASK = {"type": "t", "executor": "command", "parameters": {"argv": ["echo", "after"]}}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One server is enough for the program; three are for the peers tier."""
    with Cluster(tmp_path / "nats", size=1) as cluster:
        yield cluster


def with_password_file(cluster: Cluster, folder: Path) -> dict[str, str]:
    path = folder / "nats.password"
    path.write_text(f"{PASSWORD}\n")
    settings = cluster.settings()
    assert settings.pop("HIVEBUS_NATS_PASSWORD") == PASSWORD
    return settings | {"HIVEBUS_NATS_PASSWORD_FILE": str(path), "HIVEBUS_LOG_LEVEL": "debug"}


def test_it_works_without_starting_a_broker_and_keeps_the_password_to_itself(
    cluster: Cluster, data_dir: Path, tmp_path: Path
) -> None:
    with RunningProgram(data_dir, **with_password_file(cluster, tmp_path)) as program:
        ended = program.ended(program.submit("echo", "hello")["task_id"])
        assert (ended["status"], ended["result"]["stdout"]) == ("completed", "hello\n")
        assert not [child for child in program.children() if "nats-server" in child.name()]
        assert f"NATS       {cluster.urls[0]}" in program.stdout
        assert program.terminate() == 0
        said = program.stdout + program.stderr
    kept = b"".join(path.read_bytes() for path in data_dir.rglob("*") if path.is_file())
    assert PASSWORD not in said
    assert PASSWORD.encode() not in kept
    assert not (data_dir / "nats").exists()


def test_it_outlives_the_end_of_its_broker(cluster: Cluster, data_dir: Path) -> None:
    """Given a broker that is killed and started again, then what was accepted is there and new work is done."""
    (node,) = cluster.nodes
    with RunningProgram(data_dir, **cluster.settings()) as program:
        before = program.submit("echo", "before")
        program.ended(before["task_id"])
        node.kill()
        until(lambda: program.get("/api/status")["status"] != "healthy" or None, what="a status that says so")
        node.start()

        def submitted() -> str | None:
            answer = program.request("POST", "/api/tasks", json=TASK, headers={"Idempotency-Key": "after"})
            return answer.json()["task_id"] if answer.status_code == 202 else None

        assert program.ended(until(submitted, what="a task that is accepted"))["status"] == "completed"
        assert program.task(before["task_id"])["status"] == "completed"
        assert program.terminate() == 0


def test_a_wrong_password_ends_the_start_in_two_lines(cluster: Cluster, data_dir: Path) -> None:
    words = RunningProgram(data_dir, **cluster.settings() | {"HIVEBUS_NATS_PASSWORD": "sesame-1234"}).refused()
    last = words.splitlines()[-2:]
    assert last[0] == f"hivebus: The broker at {cluster.urls[0]} refused the user 'hivebus'."
    assert "HIVEBUS_NATS_PASSWORD" in last[1]
    assert "sesame" not in words


def test_it_starts_over_tls_with_a_certificate_of_its_own(tmp_path: Path, data_dir: Path) -> None:
    authority = Authority(tmp_path / "tls")
    server, client = authority.sign("server"), authority.sign("client")
    tls = f'cert_file: "{server.certificate}", key_file: "{server.key}", ca_file: "{authority.path}", verify: true'
    with Cluster(tmp_path / "nats", size=1, tls=tls) as cluster:
        files = {
            "HIVEBUS_NATS_CA": str(authority.path),
            "HIVEBUS_NATS_CERT": str(client.certificate),
            "HIVEBUS_NATS_KEY": str(client.key),
        }
        with RunningProgram(data_dir, **cluster.settings(), **files) as program:
            assert program.ended(program.submit("echo", "hello")["task_id"])["status"] == "completed"
            assert program.terminate() == 0


def test_a_data_directory_of_another_log_is_refused(cluster: Cluster, data_dir: Path, tmp_path: Path) -> None:
    """Given a store that was recorded from another broker, when the log holds a foreign history, then it does not
    start; an empty one it would fill from the store."""
    with RunningProgram(tmp_path / "theirs", **cluster.settings()) as program:
        program.ended(program.submit("echo", "theirs")["task_id"])
        assert program.terminate() == 0
    with RunningProgram(data_dir) as program:
        program.ended(program.submit("echo", "embedded")["task_id"])
        assert program.terminate() == 0
    assert "different commits at position" in RunningProgram(data_dir, **cluster.settings()).refused()
