"""Metrics of the running program: what they say is what happened, and nothing is said that is not known."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from tests.entrypoints.program import RunningProgram, until

NOBODYS = {"requires": ["nobody"]}


def scraped(program: RunningProgram) -> str:
    response = program.client.get(program.urls["metrics"] + "/metrics")
    assert response.status_code == 200, response.text
    return response.text


def values(text: str) -> dict[str, float]:
    """Each sample under its name and its label values, in the order of the labels' names."""
    return {
        " ".join([sample.name, *(sample.labels[name] for name in sorted(sample.labels))]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def measured(program: RunningProgram) -> dict[str, float]:
    return values(scraped(program))


def test_tasks_agents_queue_and_positions_are_what_the_api_says(program: RunningProgram) -> None:
    task = program.submit("true", priority="high", **NOBODYS)
    done = program.submit("true")
    program.ended(done["task_id"])
    program.request("GET", "/api/queue", params={"min_position": str(task["position"])})
    found = measured(program)
    queue, status = program.get("/api/queue"), program.get("/api/status")
    assert {name: found[f"hivebus_queue_tasks {name}"] for name in queue["by_priority"]} == queue["by_priority"]
    assert sum(found[f"hivebus_queue_tasks {level}"] for level in range(10)) == queue["depth"]
    assert 0 <= found["hivebus_queue_oldest_age_seconds"] <= queue["oldest_age_s"]
    assert found["hivebus_tasks queued"] == queue["depth"]
    assert found["hivebus_tasks completed"] == len(program.get("/api/tasks?status=completed")["tasks"])
    assert found["hivebus_agents idle"] == status["metrics"]["active_agents"] == 2
    assert found["hivebus_views_parked_aggregates"] == 0
    assert found["hivebus_log_head_position"] >= found["hivebus_recorder_position"] >= task["position"]
    assert found["hivebus_recorder_position"] >= found["hivebus_views_position"] >= task["position"]


def test_an_attempt_is_counted_by_how_it_ended(program: RunningProgram) -> None:
    before = measured(program)
    program.ended(program.submit("true")["task_id"])
    program.ended(program.submit("false", retry={"max_attempts": 1})["task_id"])
    after = measured(program)
    for outcome in ("completed", "failed"):
        name = f"hivebus_attempts_ended_total {outcome}"
        assert after[name] == before.get(name, 0) + 1
    assert after["hivebus_commits_recorded_total"] - before["hivebus_commits_recorded_total"] >= 6
    assert after["hivebus_append_duration_seconds_count"] > before["hivebus_append_duration_seconds_count"]


@pytest.mark.parametrize(
    ("method", "path", "body", "action", "outcome"),
    [
        ("GET", "/api/queue", None, "queue.show", "ok"),
        ("GET", "/api/status", None, "system.status", "ok"),
        ("GET", "/api/events", None, "event.list", "ok"),
        ("GET", "/api/tasks/no-such", None, "task.show", "unknown_task"),
        ("GET", "/api/nowhere-1", None, "unknown", "unknown_path"),
        ("POST", "/api/tasks", "{}", "task.submit", "missing_field"),
        ("POST", "/api/agents/no-such/tasks", "{}", "task.submit", "missing_field"),
    ],
)
def test_each_request_is_counted_once_by_what_became_of_it(
    program: RunningProgram, method: str, path: str, body: str | None, action: str, outcome: str
) -> None:
    before = measured(program)
    program.request(method, path, content=body, headers={"Content-Type": "application/json"} if body else None)
    after = measured(program)
    requests = {
        name: value - before.get(name, 0)
        for name, value in after.items()
        if name.startswith("hivebus_requests_total") and value != before.get(name, 0)
    }
    assert requests == {f"hivebus_requests_total {action} {outcome} rest": 1}
    if action != "unknown":
        name = f"hivebus_request_duration_seconds_count {action} rest"
        assert after[name] == before.get(name, 0) + 1


def test_names_that_clients_make_up_make_no_series(program: RunningProgram) -> None:
    program.request("GET", "/api/nowhere-2")
    program.request("GET", "/api/tasks/made-up-id")
    text = scraped(program)
    assert "nowhere" not in text
    assert "made-up" not in text


def test_the_process_and_the_broker_that_it_started_are_measured(program: RunningProgram) -> None:
    found = measured(program)
    own, broker = psutil.Process(program.pid), psutil.Process(program.broker_pid)
    assert found["hivebus_process_resident_memory_bytes"] == pytest.approx(own.memory_info().rss, rel=0.2)
    assert found["hivebus_broker_resident_memory_bytes"] == pytest.approx(broker.memory_info().rss, rel=0.2)
    assert found["hivebus_process_open_fds"] > 0
    assert 0 < found["hivebus_process_cpu_seconds_total"] <= sum(own.cpu_times()[:2])


def test_sockets_and_what_is_written_to_them_are_counted(program: RunningProgram) -> None:
    url = program.urls["ui"].replace("http://", "ws://") + "/ws"
    before = measured(program)
    with connect(url, additional_headers={"Authorization": f"Bearer {program.key}"}) as socket:
        hello = {"protocolVersion": {"major": 1}}
        for number, (method, params) in enumerate((("initialize", hello), ("events/subscribe", {}))):
            socket.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}))
            assert "result" in json.loads(socket.recv(timeout=10))
        assert measured(program)["hivebus_sockets"] == before["hivebus_sockets"] + 1
        program.submit("true", **NOBODYS)
        assert json.loads(socket.recv(timeout=10))["method"] == "events/batch"
        after = measured(program)
        assert after["hivebus_socket_frames_total"] > before["hivebus_socket_frames_total"]
        name = "hivebus_requests_total events/subscribe ok websocket"
        assert after[name] == before.get(name, 0) + 1
    until(lambda: measured(program)["hivebus_sockets"] == before["hivebus_sockets"], what="the socket to be gone")


def test_what_nobody_can_know_is_absent(tmp_path: Path) -> None:
    with RunningProgram(tmp_path / "data") as program:
        # Nothing is queued, so nothing has an age.
        assert "hivebus_queue_oldest_age_seconds" not in measured(program)
        broker = program.broker_pid
        assert broker is not None
        os.kill(broker, signal.SIGSTOP)
        try:
            found = until(
                lambda: now if "hivebus_log_head_position" not in (now := measured(program)) else None,
                what="the head of a broker that does not answer to be absent",
            )
        finally:
            os.kill(broker, signal.SIGCONT)
        assert "hivebus_recorder_position" in found


@pytest.mark.peers
def test_promtool_finds_nothing_wrong(program: RunningProgram) -> None:
    program.ended(program.submit("true")["task_id"])
    program.request("GET", "/api/tasks/no-such")
    text = scraped(program)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(names) == len(set(names)) > 20
    assert all(name.startswith("hivebus_") for name in names)
