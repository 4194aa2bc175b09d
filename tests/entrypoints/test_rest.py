"""Every call of the contract that exists: shapes, codes, headers, and looks into the past."""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram, until

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z").fullmatch
UNKNOWN_ID = "01a20474-6a14-8e6e-8cc2-cacb6f5b5413"

TASK_ROW = {
    "id",
    "agent_id",
    "type",
    "status",
    "progress",
    "created_at",
    "started_at",
    "estimated_completion",
}
TASK = TASK_ROW | {"completed_at", "parameters", "result", "attempts", "history", "executor", "correlation_id"}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def agent_of(program: RunningProgram, kind: str) -> dict[str, Any]:
    agent: dict[str, Any] = program.get(f"/api/agents?type={kind}")["agents"][0]
    return agent


def spawn(program: RunningProgram, **fields: Any) -> str:
    body = {"type": "shell"} | fields
    response = program.request("POST", "/api/agents?wait=recorded", json=body)
    assert response.status_code == 202, response.text
    return str(response.json()["agent_id"])


def refusals(program: RunningProgram, after: int) -> list[dict[str, Any]]:
    return [event["data"] for event in program.events(after=after, type="command.refused", limit=1000)]


def position(program: RunningProgram) -> int:
    return int(program.get("/api/status")["positions"]["applied"])


# --- a task's life ----------------------------------------------------------------------------------------------------


def test_a_submitted_task_is_accepted_with_its_place_and_runs_to_a_result(program: RunningProgram) -> None:
    response = program.request(
        "POST", "/api/tasks", json={"type": "greet", "executor": "command", "parameters": {"argv": ["echo", "hi"]}}
    )
    answer = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/api/tasks/{answer['task_id']}"
    assert response.headers["hivebus-position"] == str(answer["position"])
    assert answer["status"] == "queued"
    assert TIME(answer["created_at"])

    task = program.ended(answer["task_id"])
    assert task.keys() >= TASK
    assert (task["status"], task["type"], task["executor"], task["progress"]) == ("completed", "greet", "command", 1.0)
    assert (task["result"]["exit_code"], task["result"]["stdout"]) == (0, "hi\n")
    assert task["result"].keys() >= {"exit_code", "stdout", "stderr", "files", "duration_s"}
    assert task["parameters"] == {"argv": ["echo", "hi"]}
    assert task["agent_id"] == agent_of(program, "shell")["id"]
    assert all(TIME(task[field]) for field in ("created_at", "started_at", "completed_at"))
    assert task["estimated_completion"] is None
    assert task["unknown"]["estimated_completion"]
    [attempt] = task["attempts"]
    assert attempt.keys() >= {"agent_id", "started_at", "ended_at", "outcome"}
    assert attempt["outcome"] == "completed"
    assert [entry["type"] for entry in task["history"]][:3] == ["task.submitted", "task.queued", "task.assigned"]
    assert all(entry.keys() >= {"position", "time", "type", "actor"} for entry in task["history"])
    assert task["history"][-1]["type"] == "task.completed"


def test_a_function_runs_without_any_key_and_says_which_executor_ran_it(program: RunningProgram) -> None:
    body = {
        "type": "echo",
        "agent_type": "python",
        "parameters": {"function": "echo", "arguments": {"text": "ünï", "n": 2**62}},
    }
    response = program.request("POST", "/api/tasks", json=body)
    task = program.ended(response.json()["task_id"])
    assert (task["status"], task["executor"]) == ("completed", "python")
    assert {"text": "ünï", "n": 2**62} in task["result"].values()


def test_a_failing_task_says_how_each_attempt_ended(program: RunningProgram) -> None:
    task_id = program.submit("false", retry={"max_attempts": 2, "initial_interval_ms": 1})["task_id"]
    task = program.ended(task_id)
    assert task["status"] == "failed"
    assert [attempt["outcome"] for attempt in task["attempts"]] == ["failed", "failed"]
    assert task["error"]
    assert program.get("/api/queue")["dead_lettered"] >= 1


@pytest.mark.parametrize("ask", [{"params": {"wait": "recorded"}}, {"headers": {"Prefer": "wait=2"}}])
def test_who_waits_sees_the_write_in_every_list(program: RunningProgram, ask: dict[str, Any]) -> None:
    for _ in range(15):
        body = {"type": "seen", "executor": "command", "parameters": {"argv": ["true"]}, "requires": ["nobody"]}
        task_id = program.request("POST", "/api/tasks", json=body, **ask).json()["task_id"]
        assert program.get("/api/tasks?limit=1")["tasks"][0]["id"] == task_id


def test_an_acknowledged_id_is_never_a_404(program: RunningProgram) -> None:
    for _ in range(15):
        task_id = program.submit("true", requires=["nobody"])["task_id"]
        assert program.task(task_id)["id"] == task_id


def test_a_read_waits_for_min_position_and_says_504_when_it_does_not_come(program: RunningProgram) -> None:
    for _ in range(15):
        answer = program.submit("true", requires=["nobody"])
        page = program.get(f"/api/tasks?limit=1&min_position={answer['position']}")
        assert page["tasks"][0]["id"] == answer["task_id"]
        assert page["position"] >= answer["position"]
    far = position(program) + 1_000_000
    response = program.request("GET", f"/api/tasks?min_position={far}")
    assert problem(response, 504, "not_yet")["position"] == far
    assert int(response.headers["retry-after"]) >= 1


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_a_waiting_task_is_cancelled_at_once(program: RunningProgram) -> None:
    task_id = program.submit("true", requires=["nobody"])["task_id"]
    response = program.request("DELETE", f"/api/tasks/{task_id}")
    answer = response.json()
    assert response.status_code == 202
    assert answer.keys() >= {"message", "task_id", "previous_status"}
    assert (answer["task_id"], answer["previous_status"], answer["status"]) == (task_id, "queued", "cancelled")
    assert response.headers["hivebus-position"] == str(answer["position"])
    assert program.get(f"/api/tasks/{task_id}?min_position={answer['position']}")["status"] == "cancelled"


def test_a_running_task_is_stopped(program: RunningProgram) -> None:
    task_id = program.submit("sleep", "30")["task_id"]
    program.reaches(task_id, "running")
    assert program.request("DELETE", f"/api/tasks/{task_id}").json()["previous_status"] == "running"
    task = program.ended(task_id)
    assert task["status"] == "cancelled"
    assert [attempt["outcome"] for attempt in task["attempts"]] == ["cancelled"]


def test_cancelling_twice_is_harmless_and_leaves_its_own_event(program: RunningProgram) -> None:
    task_id = program.submit("true", requires=["nobody"])["task_id"]
    first = program.request("DELETE", f"/api/tasks/{task_id}").json()
    second = program.request("DELETE", f"/api/tasks/{task_id}?wait=recorded").json()
    assert second["position"] > first["position"]
    assert program.events(after=second["position"] - 1, limit=1)[0]["type"] == "hivebus.command.unchanged"


def test_an_illegal_transition_is_a_409_and_leaves_a_refusal_an_unknown_id_leaves_nothing(
    program: RunningProgram,
) -> None:
    task_id = program.ended(program.submit("true")["task_id"])["id"]
    before = position(program)
    problem(program.request("DELETE", f"/api/tasks/{task_id}"), 409, "illegal_transition")
    until(lambda: refusals(program, before), what="the refusal to be recorded")
    [refused] = refusals(program, before)
    assert (refused["command"], refused["target"], refused["code"]) == ("task.cancel", task_id, "illegal_transition")

    before = position(program)
    problem(program.request("DELETE", f"/api/tasks/{UNKNOWN_ID}"), 404, "unknown_task")
    marker = program.submit("true", requires=["nobody"])["position"]
    until(lambda: position(program) >= marker, what="a later commit to be visible")
    assert refusals(program, before) == []


# --- the same thing twice ---------------------------------------------------------------------------------------------


def test_the_same_key_and_body_give_the_same_task_another_body_is_refused(program: RunningProgram) -> None:
    key = str(uuid4())
    first = program.submit("true", key=key)
    again = program.submit("true", key=key)
    assert (again["task_id"], again["position"], again["repeated"]) == (first["task_id"], first["position"], True)
    body = {"type": "test", "executor": "command", "parameters": {"argv": ["false"]}}
    response = program.request("POST", "/api/tasks", json=body, headers={"Idempotency-Key": key})
    problem(response, 409, "idempotency_key_reused")


def test_a_cancel_under_a_key_is_one_cancel(program: RunningProgram) -> None:
    one, other = (program.submit("true", requires=["nobody"])["task_id"] for _ in range(2))
    headers = {"Idempotency-Key": str(uuid4())}
    first = program.request("DELETE", f"/api/tasks/{one}?wait=recorded", headers=headers).json()
    again = program.request("DELETE", f"/api/tasks/{one}", headers=headers).json()
    assert (again["position"], again["repeated"]) == (first["position"], True)
    problem(program.request("DELETE", f"/api/tasks/{other}", headers=headers), 409, "idempotency_key_reused")
    assert program.task(other)["status"] == "queued"


def test_one_key_for_two_kinds_of_command_loses_neither(program: RunningProgram) -> None:
    headers = {"Idempotency-Key": str(uuid4())}
    body = {"type": "test", "executor": "command", "parameters": {"argv": ["true"]}, "requires": ["nobody"]}
    task = program.request("POST", "/api/tasks", json=body, headers=headers)
    agent = program.request("POST", "/api/agents", json={"type": "shell"}, headers=headers)
    assert task.status_code == 202
    assert program.task(task.json()["task_id"])["status"] == "queued"
    if agent.status_code == 202:
        agent_id = agent.json()["agent_id"]
        assert program.get(f"/api/agents/{agent_id}")["id"] == agent_id
        program.request("DELETE", f"/api/agents/{agent_id}")
    else:
        problem(agent, 409, "idempotency_key_reused")


@pytest.mark.parametrize("key", ["", "x" * 201, "schlüssel"])
def test_a_key_that_cannot_be_kept_is_refused(program: RunningProgram, key: str) -> None:
    body = {"type": "test", "executor": "command", "parameters": {"argv": ["true"]}}
    headers: Any = {"Authorization": f"Bearer {program.key}", "Idempotency-Key": key.encode()}
    response = program.client.post(f"{program.url}/api/tasks", json=body, headers=headers)
    problem(response, 400, "invalid_request")


# --- lists ------------------------------------------------------------------------------------------------------------


def test_pages_are_bounded_and_say_whether_there_is_more(program: RunningProgram) -> None:
    kind = f"page-{uuid4()}"
    ids = [program.submit("true", type=kind, requires=["nobody"])["task_id"] for _ in range(5)]
    newest_first = ids[::-1]
    program.task(ids[-1])
    seen = []
    for offset in (0, 2, 4):
        page = program.get(f"/api/tasks?type={kind}&limit=2&offset={offset}")
        assert page["pagination"] == {"total": 5, "limit": 2, "offset": offset, "has_more": offset < 4}
        assert all(row.keys() >= TASK_ROW for row in page["tasks"])
        seen += [row["id"] for row in page["tasks"]]
    assert seen == newest_first
    assert program.get("/api/tasks")["pagination"]["limit"] == 50
    assert program.get("/api/tasks?limit=1000")["pagination"]["limit"] == 1000
    assert program.get(f"/api/tasks?type={kind}&offset=10000000")["tasks"] == []


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/limit"),
        ("limit=1001", "/limit"),
        ("limit=x", "/limit"),
        ("limit=", "/limit"),
        ("limit=1&limit=2", "/limit"),
        ("offset=-1", "/offset"),
        ("offset=10000001", "/offset"),
        ("bogus=1", "/bogus"),
        ("bogus=", "/bogus"),
        ("wait=recorded", "/wait"),
        ("at=", "/at"),
        ("at=yesterday", "/at"),
        ("at=-5", "/at"),
        ("at=²", "/at"),
        ("at=9999999999999999999", "/at"),
        ("at=2026-01-31", "/at"),
        ("at=2026-02-31T00:00:00Z", "/at"),
        ("min_position=", "/min_position"),
        ("min_position=²", "/min_position"),
        ("min_position=-1", "/min_position"),
        ("min_position=9999999999999999999", "/min_position"),
    ],
)
def test_a_query_that_means_nothing_is_a_422_that_points_at_it(
    program: RunningProgram, query: str, pointer: str
) -> None:
    body = problem(
        program.request("GET", f"/api/tasks?{query}"),
        422,
        "unknown_field" if "bogus" in query or "wait" in query else "invalid_field",
    )
    assert body["pointer"] == pointer


def test_a_command_knows_its_query_parameters_too(program: RunningProgram) -> None:
    body = {"type": "x", "executor": "command", "parameters": {"argv": ["true"]}}
    problem(program.request("POST", "/api/tasks?dry_run=1", json=body), 422, "unknown_field", "/dry_run")
    problem(program.request("POST", "/api/tasks?wait=for-me", json=body), 422, "invalid_field", "/wait")
    problem(program.request("DELETE", f"/api/tasks/{UNKNOWN_ID}?at=5"), 422, "unknown_field", "/at")


def test_tasks_are_filtered_by_status_agent_type_and_correlation(program: RunningProgram) -> None:
    kind, correlation = f"kind-{uuid4()}", str(uuid4())
    headers = {"X-Correlation-Id": correlation}
    body = {"type": kind, "executor": "command", "parameters": {"argv": ["true"]}}
    done = program.request("POST", "/api/tasks", json=body, headers=headers).json()["task_id"]
    waiting = program.submit("true", type=kind, requires=["nobody"])["task_id"]
    agent_id = program.ended(done)["agent_id"]
    program.task(waiting)

    def found(**query: str) -> list[str]:
        return [row["id"] for row in program.get("/api/tasks", params={"type": kind} | query)["tasks"]]

    assert found() == [waiting, done]
    assert found(status="completed") == [done]
    assert found(status="queued") == [waiting]
    assert found(agent_id=agent_id) == [done]
    assert found(correlation_id=correlation) == [done]
    assert program.task(done)["correlation_id"] == correlation


def test_the_older_words_for_a_status_are_understood(program: RunningProgram) -> None:
    kind = f"retrying-{uuid4()}"
    task_id = program.submit(
        "false", type=kind, retry={"max_attempts": 2, "initial_interval_ms": 86_400_000, "max_interval_ms": 86_400_000}
    )["task_id"]
    program.reaches(task_id, "scheduled")
    assert [row["id"] for row in program.get(f"/api/tasks?type={kind}&status=retrying")["tasks"]] == [task_id]
    assert program.task(task_id)["not_before"]


# --- the past ---------------------------------------------------------------------------------------------------------


def test_any_position_and_any_time_can_be_looked_at_again(program: RunningProgram) -> None:
    born = program.submit("echo", "then")
    task = program.ended(born["task_id"])
    then = program.get(f"/api/tasks/{born['task_id']}?at={born['position']}")
    assert (then["status"], then["result"], then["position"]) == ("queued", None, born["position"])
    assert {entry["position"] for entry in then["history"]} == {born["position"]}
    problem(program.request("GET", f"/api/tasks/{born['task_id']}?at={born['position'] - 1}"), 404, "unknown_task")
    assert program.get("/api/tasks?at=0")["pagination"]["total"] == 0
    assert program.get(f"/api/agents?at={born['position']}")["agents"]

    seen_at = now()
    time.sleep(0.005)
    later = program.ended(program.submit("true")["task_id"])
    past = program.get("/api/tasks", params={"at": seen_at})
    assert past["tasks"][0]["id"] == task["id"]
    assert later["id"] not in {row["id"] for row in past["tasks"]}
    assert program.get("/api/tasks", params={"at": now()})["tasks"][0]["id"] == later["id"]
    assert program.get("/api/tasks?at=2020-01-01T00:00:00Z")["tasks"] == []
    moved = datetime.fromisoformat(seen_at).astimezone() + timedelta(0)
    assert program.get("/api/tasks", params={"at": moved.isoformat(timespec="milliseconds")})["tasks"] == past["tasks"]


def test_a_position_that_is_not_there_yet_is_a_504(program: RunningProgram) -> None:
    problem(program.request("GET", f"/api/queue?at={position(program) + 1_000_000}"), 504, "not_yet")


# --- agents -----------------------------------------------------------------------------------------------------------


def test_a_fresh_system_has_an_agent_of_each_built_in_type(program: RunningProgram) -> None:
    agents = program.get("/api/agents")["agents"]
    assert {(agent["type"], agent["executor"]) for agent in agents} >= {("shell", "command"), ("python", "python")}
    for agent in agents:
        assert agent.keys() >= {"id", "name", "type", "status", "capabilities", "current_task"}
    assert [agent["type"] for agent in program.get("/api/agents?type=python")["agents"]] == ["python"]
    assert program.get("/api/agents?status=quarantined")["agents"] == []


def test_an_agent_is_spawned_works_and_retires(program: RunningProgram) -> None:
    agent_id = spawn(program, name="worker", capabilities=["shell", "gpu"], slots=2)
    until(lambda: program.get(f"/api/agents/{agent_id}")["status"] == "idle", what="the agent to live on a host")
    fresh = program.get(f"/api/agents/{agent_id}")
    assert TIME(fresh["created_at"])
    assert TIME(fresh["last_activity"])
    metrics = fresh["performance_metrics"]
    assert (metrics["tasks_completed"], metrics["average_response_time"], metrics["success_rate"]) == (0, None, None)
    assert metrics["unknown"].keys() == {"average_response_time", "success_rate"}

    running = program.submit("sleep", "30", requires=["gpu"])["task_id"]
    program.reaches(running, "running")
    busy = program.get(f"/api/agents/{agent_id}")
    assert (busy["status"], busy["current_task"]) == ("busy", running)
    assert [agent["id"] for agent in program.get("/api/agents?status=busy")["agents"]] == [agent_id]
    [held] = [row for row in program.get("/api/agents/tasks")["assignments"] if row["task_id"] == running]
    assert held.keys() >= {"agent_id", "task_id", "since", "lease_expires_at"}
    assert held["agent_id"] == agent_id
    assert TIME(held["since"])
    assert held["lease_expires_at"] or held["unknown"]["lease_expires_at"]
    program.request("DELETE", f"/api/tasks/{running}")
    program.ended(running)

    program.ended(program.submit("true", requires=["gpu"])["task_id"])
    metrics = program.get(f"/api/agents/{agent_id}")["performance_metrics"]
    assert (metrics["tasks_completed"], metrics["success_rate"]) == (1, 1.0)
    assert metrics["average_response_time"] > 0

    response = program.request("DELETE", f"/api/agents/{agent_id}")
    assert response.status_code == 202
    assert response.json()["previous_status"] == "idle"
    until(lambda: program.get(f"/api/agents/{agent_id}")["status"] == "retired", what="the agent to retire")
    assert agent_id not in {agent["id"] for agent in program.get("/api/agents")["agents"]}
    assert agent_id in {agent["id"] for agent in program.get("/api/agents?status=retired")["agents"]}
    body = {"task_type": "x", "parameters": {"argv": ["true"]}}
    problem(program.request("POST", f"/api/agents/{agent_id}/tasks", json=body), 409, "agent_unavailable")


def test_an_agent_that_nothing_could_run_is_refused(program: RunningProgram) -> None:
    problem(program.request("POST", "/api/agents", json={"type": "poet"}), 422, "unknown_agent_type", "/type")
    body = {"type": "poet", "executor": "quill"}
    problem(program.request("POST", "/api/agents", json=body), 422, "unknown_agent_type", "/executor")
    problem(program.request("POST", "/api/agents", json={"type": "shell", "slots": 0}), 422, "invalid_field", "/slots")
    problem(program.request("GET", f"/api/agents/{UNKNOWN_ID}"), 404, "unknown_agent")
    problem(program.request("DELETE", f"/api/agents/{UNKNOWN_ID}"), 404, "unknown_agent")


def test_the_older_call_gives_a_task_to_one_agent(program: RunningProgram) -> None:
    agent_id = agent_of(program, "shell")["id"]
    body = {"task_type": "greet", "parameters": {"argv": ["echo", "old"]}, "priority": "high", "timeout": 5}
    response = program.request("POST", f"/api/agents/{agent_id}/tasks", json=body)
    answer = response.json()
    assert response.status_code == 202
    assert answer.keys() >= {"task_id", "agent_id", "status", "estimated_completion", "created_at"}
    assert (answer["agent_id"], answer["status"], answer["estimated_completion"]) == (agent_id, "queued", None)
    assert answer["unknown"]["estimated_completion"]
    assert response.headers["location"] == f"/api/tasks/{answer['task_id']}"
    task = program.ended(answer["task_id"])
    assert (task["result"]["stdout"], task["agent_id"], task["timeout_s"], task["priority"]) == (
        "old\n",
        agent_id,
        5.0,
        7,
    )


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"priority": "urgent"}, "invalid_field", "/priority"),
        ({"priority": 77}, "invalid_field", "/priority"),
        ({"task_type": "no good"}, "invalid_field", "/task_type"),
        ({"timeout": 0}, "invalid_field", "/timeout"),
        ({"parameters": {"argv": 5}}, "invalid_field", "/parameters/argv"),
        ({"type": "x"}, "unknown_field", "/type"),
    ],
)
def test_the_older_call_checks_what_the_newer_one_checks(
    program: RunningProgram, change: dict[str, Any], code: str, pointer: str
) -> None:
    body = {"task_type": "x", "parameters": {"argv": ["true"]}} | change
    agent_id = agent_of(program, "shell")["id"]
    problem(program.request("POST", f"/api/agents/{agent_id}/tasks", json=body), 422, code, pointer)


@pytest.mark.parametrize("agent_id", [UNKNOWN_ID, "*", "%3E", "a.b", "x" * 300])
def test_a_task_for_an_unknown_agent_is_a_404(program: RunningProgram, agent_id: str) -> None:
    body = {"task_type": "x", "parameters": {"argv": ["true"]}}
    problem(program.request("POST", f"/api/agents/{agent_id}/tasks", json=body), 404, "unknown_agent")


# --- the queue and the program itself ---------------------------------------------------------------------------------


def test_the_queue_counts_what_waits(program: RunningProgram) -> None:
    kind = f"waits-{uuid4()}"
    before = program.get("/api/queue")
    ids = [program.submit("true", type=kind, requires=["nobody"], priority=0)["task_id"] for _ in range(3)]
    for task_id in ids:
        program.task(task_id)
    queue = program.get("/api/queue")
    assert queue.keys() >= {
        "depth",
        "by_priority",
        "by_type",
        "oldest_age_s",
        "throughput_per_minute",
        "blocked",
        "dead_lettered",
    }
    assert queue["depth"] == before["depth"] + 3
    assert queue["by_type"][kind] == 3
    assert queue["by_priority"]["0"] == before["by_priority"].get("0", 0) + 3
    assert queue["oldest_age_s"] >= 0
    assert program.task(ids[0])["unassignable"]
    for task_id in ids:
        program.request("DELETE", f"/api/tasks/{task_id}?wait=recorded")
    assert kind not in program.get("/api/queue")["by_type"]
    done = program.get("/api/queue")["throughput_per_minute"]
    program.ended(program.submit("true")["task_id"])
    assert program.get("/api/queue")["throughput_per_minute"] == done + 1


def test_status_answers_without_a_key_on_both_ports_with_measured_figures(program: RunningProgram) -> None:
    for url in (program.urls["api"], program.urls["ui"]):
        response = program.client.get(f"{url}/api/status")
        assert response.status_code == 200
        status = response.json()
        assert status.keys() >= {"status", "version", "uptime", "services", "metrics"}
        assert status["status"] == "healthy"
        assert status["services"].keys() >= {"agents", "websocket", "database", "broker"}
        for name, value in status["services"].items():
            assert value == "healthy" or status["unknown"][f"services.{name}"]
        metrics = status["metrics"]
        assert metrics.keys() >= {"active_agents", "queued_tasks", "cpu_usage", "memory_usage"}
        assert metrics["queued_tasks"] == program.get("/api/queue")["depth"]
        assert metrics["active_agents"] >= 2
        assert 0 < metrics["memory_usage"] < 100
    first = program.client.get(f"{program.url}/api/status").json()["uptime"]
    time.sleep(0.01)
    assert program.client.get(f"{program.url}/api/status").json()["uptime"] > first


def test_info_says_what_this_system_can_do(program: RunningProgram) -> None:
    info = program.get("/api/info")
    assert info["system"].keys() >= {"node_count", "swarm_status", "docker_version"}
    for name in ("node_count", "swarm_status", "docker_version"):
        assert info["system"][name] is not None or info["system"]["unknown"][name]
    assert info["capabilities"]["agents"] == len(info["capabilities"]["agent_types"]) == 2
    assert info["capabilities"]["max_concurrent_tasks"] == 32
    assert "rest" in info["capabilities"]["supported_protocols"]


@pytest.mark.parametrize("listener", ["api", "ui", "metrics"])
def test_health_answers_on_every_listener_without_a_key(program: RunningProgram, listener: str) -> None:
    url = program.urls[listener]
    assert program.client.get(f"{url}/health/live").json() == {"status": "live"}
    assert program.client.get(f"{url}/health/ready").json() == {"status": "ready"}


def test_metrics_are_exposed_and_move(program: RunningProgram) -> None:
    def value(text: str, name: str) -> float:
        [line] = [line for line in text.splitlines() if line.startswith(name + " ")]
        return float(line.rpartition(" ")[2])

    def scrape() -> str:
        response = program.client.get(f"{program.urls['metrics']}/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        return response.text

    name = 'hivebus_requests_total{action="task.submit",outcome="ok",transport="rest"}'
    program.submit("true", requires=["nobody"])
    before = scrape()
    answer = program.submit("true", requires=["nobody"])
    program.task(answer["task_id"])
    after = scrape()
    assert value(after, name) == value(before, name) + 1
    assert value(after, "hivebus_views_position") >= answer["position"] > value(before, "hivebus_views_position")
    assert value(after, "hivebus_tasks_live") == value(before, "hivebus_tasks_live") + 1
    for listener in ("api", "ui"):
        url = f"{program.urls[listener]}/metrics"
        problem(program.client.get(url), 401, "unauthenticated")
        assert name in program.request("GET", url).text


# --- methods and paths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/tasks", "/api/status", "/api/queue", "/api/events", "/metrics", "/health/live"])
def test_head_is_get_without_the_body(program: RunningProgram, path: str) -> None:
    get, head = program.request("GET", path), program.request("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/tasks", "GET, HEAD, POST"),
        (f"/api/tasks/{UNKNOWN_ID}", "DELETE, GET, HEAD"),
        ("/api/status", "GET, HEAD"),
        ("/api/", "POST"),
    ],
)
def test_another_method_is_a_405_that_names_those_there_are(
    program: RunningProgram, method: str, path: str, allowed: str
) -> None:
    response = program.request(method, path)
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/nope", "/apis", "/api/nope", "/api/tasks/a/b", "/api/../etc/passwd", "/index.php"])
@pytest.mark.parametrize("listener", ["api", "ui", "metrics"])
def test_an_unknown_path_is_a_404_in_json(program: RunningProgram, listener: str, path: str) -> None:
    problem(program.request("GET", program.urls[listener] + path), 404, "unknown_path")


@pytest.mark.parametrize(
    "task_id", ["nope", "*", "%2A", ">", "%3E", "a.b", "..%2F..", "%00", "%ff", "ä", "x" * 64, "x" * 4000]
)
def test_an_id_that_is_none_names_nothing(program: RunningProgram, task_id: str) -> None:
    problem(program.request("GET", f"/api/tasks/{task_id}"), 404, "unknown_task")
    if len(task_id) <= 64:
        problem(program.request("DELETE", f"/api/tasks/{task_id}"), 404, "unknown_task")
    else:
        problem(program.request("DELETE", f"/api/tasks/{task_id}"), 422, "invalid_field", "/task_id")


def test_a_trailing_slash_and_an_encoded_id_name_the_same_thing(program: RunningProgram) -> None:
    task_id = program.submit("true", requires=["nobody"])["task_id"]
    assert program.get(f"/api/tasks/{task_id.replace('-', '%2D')}")["id"] == task_id
    assert program.get(f"/api/tasks/{task_id}/")["id"] == task_id
    assert program.request("DELETE", f"/api/tasks/{task_id.replace('-', '%2d')}").status_code == 202


def test_the_tools_listener_answers_every_query_and_changes_nothing(program: RunningProgram) -> None:
    tools = program.urls["tools"]
    headers = {"Authorization": f"Bearer {program.key}"}
    for path in ("/api/tasks", "/api/agents", "/api/queue?at=1", "/api/events?after=0", "/health/ready"):
        assert program.client.get(tools + path, headers=headers).status_code == 200, path
    answer = program.client.post(f"{tools}/api/tasks", headers=headers, json={"type": "x", "parameters": {}})
    assert problem(answer, 405, "method_not_allowed")
    assert problem(program.client.get(f"{tools}/api/tasks"), 401, "unauthenticated")
