"""Bad input of the scheduler: each its own code, sentence, remedy and pointer, over REST and at the command line.

Nothing of it is stored. And what is accepted is never stuck in silence: what no agent can take says so.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from tests.accept.program import Answer, Client, Program
from tests.accept.script import Figures, Options, expect, main, note

TASK: dict[str, Any] = {"type": "x", "executor": "command", "parameters": {"argv": ["true"]}, "requires": ["nobody"]}
SUBMIT = ("POST", "/api/tasks")
PAST = "2020-01-01T00:00:00Z"
SETTLE_S_MAX = 20.0
# What the Show names: a cycle, an unknown dependency, a cron that never fires, a zero budget, an unknown agent type.
OWN = ("dependency_cycle", "unknown_dependency", "never_fires", "zero_budget", "unknown_agent_type")


class Row(NamedTuple):
    """A request, and how it is refused."""

    what: str
    code: str
    pointer: str | None
    method: str
    path: str
    body: Any
    status: int = 422


class Line(NamedTuple):
    """A command line, and how it ends. `said` is what stands in its error."""

    words: tuple[str, ...]
    exit_code: int
    said: str
    stdin: bytes | None = None


def run(options: Options) -> Figures:
    """The table over REST, the same and more at the command line, and what is accepted and cannot run yet."""
    with tempfile.TemporaryDirectory() as folder, Program(Path(folder) / "data", HIVEBUS_PROFILE="fast") as program:
        client = program.client()
        rows = table(client)
        before = _stored(client)
        for row in rows:
            _is_refused(client.request(row.method, row.path, row.body), row)
        lines = command_lines()
        lines = lines[: options.count(len(lines), 10)]
        for line in lines:
            _ends_badly(program, line)
        stored = [event for event in _stored(client)[len(before) :] if event["id"] not in {one["id"] for one in before}]
        expect(len(stored) == 2, f"something was stored: {[event['type'] for event in stored]}")
        codes = Counter(row.code for row in rows)
        expect(set(OWN) <= set(codes), f"{set(OWN) - set(codes)} did not come up")
        explained = _accepted(client)
        said = program.log.read_text()
    expect("Traceback" not in said, f"a traceback in the log: {said[-3000:]}")
    note(f"{len(rows)} requests and {len(lines)} command lines refused")
    return {
        "requests_refused": len(rows),
        "codes": dict(sorted(codes.items())),
        "command_lines_refused": len(lines),
        "exit_codes": dict(Counter(line.exit_code for line in lines)),
        "accepted_and_explained": explained,
    }


def table(client: Client) -> list[Row]:
    """Every way to ask the scheduler for what cannot be."""
    nobody, ended = str(uuid4()), _submitted(client, TASK)
    client.request("DELETE", f"/api/tasks/{ended}")
    return [*_dependencies(nobody, ended), *_times(), *_limits(), *_budgets(), *_schedules(), *_agents(nobody)]


def _task(what: str, code: str, pointer: str, **changed: Any) -> Row:
    return Row(what, code, pointer, *SUBMIT, TASK | changed)


def _dependencies(nobody: str, ended: str) -> list[Row]:
    cycle = [TASK | {"ref": "a", "depends_on": ["@b"]}, TASK | {"ref": "b", "depends_on": ["@a"]}]
    ring = [TASK | {"ref": f"t{n}", "depends_on": [f"@t{(n + 1) % 50}"]} for n in range(50)]
    parents = [TASK | {"ref": "a", "parent": "@b"}, TASK | {"ref": "b", "parent": "@a"}]
    into = {"type": "data", "task": ended, "into": "/nothing/0"}
    return [
        Row("a cycle of two", "dependency_cycle", "/depends_on/0", *SUBMIT, cycle),
        Row("a cycle of fifty", "dependency_cycle", "/depends_on/0", *SUBMIT, ring),
        Row("a cycle of parents", "dependency_cycle", "/parent", *SUBMIT, parents),
        Row("itself", "self_dependency", "/depends_on/0", *SUBMIT, [TASK | {"ref": "a", "depends_on": ["@a"]}]),
        _task("an unknown dependency", "unknown_dependency", "/depends_on/0", depends_on=[nobody]),
        _task("an unknown dependency by no id", "unknown_dependency", "/depends_on/1", depends_on=[ended, "x"]),
        _task("an item of no batch", "unknown_dependency", "/depends_on/0", depends_on=["@a"]),
        _task("too many dependencies", "invalid_field", "/depends_on", depends_on=[nobody] * 101),
        _task("data to nowhere", "missing_field", "/depends_on/0/into", depends_on=[{"type": "data", "task": ended}]),
        _task("data to no place", "bad_pointer", "/depends_on/0/into", depends_on=[into]),
        _task("an unknown parent", "unknown_parent", "/parent", parent=nobody),
        _task("a parent that has ended", "parent_ended", "/parent", parent=ended),
        _task("an unknown policy", "invalid_field", "/on_dependency_failure", on_dependency_failure="explode"),
    ]


def _times() -> list[Row]:
    late, later = "2090-01-01T00:00:00Z", "2091-01-01T00:00:00Z"
    return [
        _task("a deadline in the past", "deadline_passed", "/deadline", deadline=PAST),
        _task("a deadline before its start", "deadline_before_start", "/deadline", not_before=later, deadline=late),
        _task("over before its start", "timeout_before_start", "/total_timeout_s", not_before=late, total_timeout_s=5),
        _task("no time", "invalid_field", "/not_before", not_before="tomorrow"),
        _task("no time of the calendar", "invalid_field", "/deadline", deadline="2090-02-30T00:00:00Z"),
        _task("a negative priority", "invalid_field", "/priority", priority=-1),
        _task("a priority above the highest", "invalid_field", "/priority", priority=10),
        _task("a timeout of nothing", "invalid_field", "/timeout_s", timeout_s=0),
        _task("a queue timeout of nothing", "invalid_field", "/queue_timeout_s", queue_timeout_s=0),
        _task("a silence timeout below a second", "invalid_field", "/silence_timeout_s", silence_timeout_s=0.1),
        _task("no attempt", "invalid_field", "/retry/max_attempts", retry={"max_attempts": 0}),
        _task(
            "a back-off below nothing", "invalid_field", "/retry/initial_interval_ms", retry={"initial_interval_ms": -1}
        ),
    ]


def _limits() -> list[Row]:
    def limit(what: str, code: str, pointer: str, **body: Any) -> Row:
        return Row(what, code, pointer, "PUT", "/api/limits/k", body)

    return [
        _task("a rate key without a rate", "unknown_limit", "/rate_key", rate_key="nobody set it"),
        _task("an empty key", "invalid_field", "/concurrency_key", concurrency_key=""),
        limit("concurrency below nothing", "invalid_field", "/concurrency", concurrency=-1),
        limit("a rate of nothing", "invalid_field", "/rate_per_s", rate_per_s=0),
        limit("a rate that no clock counts", "invalid_field", "/rate_per_s", rate_per_s=1e-310),
        limit("a burst without a rate", "invalid_field", "/burst", burst=3),
        limit("a burst of nothing", "invalid_field", "/burst", rate_per_s=1, burst=0),
        limit("a weight of nothing", "invalid_field", "/weight", weight=0),
        limit("a weight that divides to infinity", "invalid_field", "/weight", weight=1e-308),
        Row("a pause without a name", "pause_name", "/name", "POST", "/api/queue/pause", {"what": "type"}),
        Row("a pause of all by name", "pause_name", "/name", "POST", "/api/queue/pause", {"what": "all", "name": "x"}),
        Row("a pause of a colour", "invalid_field", "/what", "POST", "/api/queue/pause", {"what": "colour"}),
    ]


def _budgets() -> list[Row]:
    def budget(what: str, code: str, pointer: str | None, **body: Any) -> Row:
        return Row(what, code, pointer, "PUT", "/api/budgets/p", body)

    return [
        _task("a task's budget of no tokens", "zero_budget", "/max_tokens", max_tokens=0),
        _task("a task's budget of no cost", "zero_budget", "/max_cost", max_cost=0),
        _task("a task's budget below nothing", "zero_budget", "/max_cost", max_cost=-1.5),
        budget("a project's budget of no tokens", "zero_budget", "/tokens", tokens=0),
        budget("a project's budget of no cost", "zero_budget", "/cost", cost=0.0),
        budget("a project's budget of no time", "zero_budget", "/wall_s", wall_s=0),
        budget("a budget of nothing", "empty_budget", None),
        budget("a budget of a week", "invalid_field", "/period", period="week", tokens=1),
        budget("a day of no time zone", "unknown_timezone", "/timezone", tokens=1, timezone="Mars/Olympus"),
    ]


def _schedules() -> list[Row]:
    def schedule(what: str, code: str, pointer: str, **changed: Any) -> Row:
        body = {"task": TASK, "cron": "0 6 * * *"} | changed
        return Row(what, code, pointer, "PUT", "/api/schedules/s", {k: v for k, v in body.items() if v is not None})

    never = [("the 30th of February", "0 0 30 2 *"), ("the 31st of April or June", "0 0 31 4,6 *")]
    return [
        *[schedule(f"never: {what}", "never_fires", "/cron", cron=cron) for what, cron in never],
        schedule("over before it began", "never_fires", "/until", until=PAST),
        schedule("no cron", "invalid_cron", "/cron", cron="whenever"),
        schedule("a minute that is none", "invalid_cron", "/cron", cron="61 * * * *"),
        schedule("six fields", "invalid_cron", "/cron", cron="0 0 6 * * *"),
        schedule("a time zone that is none", "unknown_timezone", "/timezone", timezone="Mars/Olympus"),
        schedule("cron and interval", "cron_or_every", "/cron", every_s=5),
        schedule("neither", "cron_or_every", "/cron", cron=None),
        schedule("every no second", "invalid_field", "/every_s", cron=None, every_s=0),
        schedule("all missed and none beside", "run_all_overlaps", "/missed", missed="run_all", overlap="skip"),
        schedule("a task that is none", "executor_required", "/task/executor", task={"type": "x", "parameters": {}}),
        schedule(
            "a dependency of each run", "not_for_schedules", "/task/depends_on", task=TASK | {"depends_on": ["x"]}
        ),
        schedule("a deadline of each run", "not_for_schedules", "/task/deadline", task=TASK | {"deadline": PAST}),
        schedule("a run without a budget", "zero_budget", "/task/max_tokens", task=TASK | {"max_tokens": 0}),
    ]


def _agents(nobody: str) -> list[Row]:
    wizard = {"type": "x", "agent_type": "wizard", "parameters": {}}
    return [
        Row("an unknown agent type", "unknown_agent_type", "/agent_type", *SUBMIT, wizard),
        Row("no executor", "executor_required", "/executor", *SUBMIT, {"type": "x", "parameters": {}}),
        _task("an unknown executor", "unknown_executor", "/executor", executor="magic"),
        Row("an agent of an unknown type", "unknown_agent_type", "/type", "POST", "/api/agents", {"type": "wizard"}),
        Row("no slot", "invalid_field", "/slots", "POST", "/api/agents", {"type": "shell", "slots": 0}),
        Row("why, of no task", "unknown_task", None, "GET", f"/api/tasks/{nobody}/explain", None, 404),
        Row("approve no task", "unknown_task", None, "POST", f"/api/tasks/{nobody}/approve", {"reason": "x"}, 404),
        Row("pause no schedule", "unknown_schedule", None, "POST", "/api/schedules/nobody/pause", {}, 404),
    ]


def _submitted(client: Client, task: dict[str, Any]) -> str:
    answer = client.request(*SUBMIT, task)
    expect(answer.status == 202, f"{task}: {answer.raw!r}")
    return str(answer.json["task_id"])


def _is_refused(answer: Answer, row: Row) -> None:
    """A problem document with everything in it; of a batch, one for each item."""
    what, said = row.what, answer.raw[:600]
    if isinstance(row.body, list):
        expect(answer.status == 202 and answer.json["accepted"] == 0, f"{what}: {said!r}")
        problems = [item["error"] for item in answer.json["items"]]
    else:
        expect(answer.status == row.status, f"{what}: {answer.status} instead of {row.status}: {said!r}")
        expect(answer.headers["content-type"] == "application/problem+json", f"{what}: {answer.headers}")
        problems = [answer.json]
    for problem in problems:
        expect((problem["code"], problem["status"]) == (row.code, row.status), f"{what}: {said!r}")
        expect(problem["detail"].endswith(".") and problem.get("remedy"), f"{what}: no sentence or no remedy: {said!r}")
        expect(problem.get("pointer") == row.pointer, f"{what}: {problem.get('pointer')} instead of {row.pointer}")
    expect(b"Traceback" not in answer.raw, f"{what}: a traceback")


def _stored(client: Client) -> list[dict[str, Any]]:
    """All events up to those of a task that is submitted now."""
    marker = _submitted(client, TASK)
    deadline = time.monotonic() + SETTLE_S_MAX
    while True:
        events = client.events()
        if any(marker in str(event.get("subject")) for event in events):
            return events
        expect(time.monotonic() < deadline, "a task was not recorded")
        time.sleep(0.05)


# --- the command line ---


def command_lines() -> list[Line]:
    """The same from a shell: what its own options tell is 2, what the server says is 1."""
    submit = ("task", "submit", "--type", "x", "--executor", "command")
    program = ("--", "true")
    fields = ('type="x"', 'executor="command"', 'parameters={"argv":["true"]}')
    task = tuple(word for field in fields for word in ("--task", field))
    cycle = [TASK | {"ref": "a", "depends_on": ["@b"]}, TASK | {"ref": "b", "depends_on": ["@a"]}]
    return [
        Line(("task", "submit", "--file", "-"), 1, "@a -> @b -> @a", json.dumps(cycle).encode()),
        Line((*submit, "--depends-on", str(uuid4()), *program), 1, "to depend on."),
        Line(("schedule", "set", "s", "--cron", "0 0 30 2 *", *task), 1, "never fires"),
        Line((*submit, "--max-tokens", "0", *program), 1, "A budget of 0"),
        Line(("budget", "set", "p", "--tokens", "0"), 1, "A budget of 0"),
        Line(("task", "submit", "--type", "x", "--agent-type", "wizard"), 1, "wizard is no built-in agent type"),
        Line((*submit, "--rate-key", "nobody set it", *program), 1, "No rate is set"),
        Line((*submit, "--deadline", PAST, *program), 1, "has passed"),
        Line(("limit", "set", "k", "--concurrency", "-1"), 2, "--concurrency"),
        Line(("limit", "set", "k", "--rate-per-s", "0"), 1, "Expected `float`"),
        Line(("limit", "set", "k", "--weight", "0"), 1, "Expected `float`"),
        Line(("limit", "set", "k", "--burst", "3"), 1, "without rate_per_s"),
        Line((*submit, "--priority", "-1", *program), 1, "Expected `int`"),
        Line((*submit, "--on-dependency-failure", "explode", *program), 2, "explode"),
        Line((*submit, "--parent", str(uuid4()), *program), 1, "to be a part of"),
        Line(("schedule", "set", "s", "--cron", "61 * * * *", *task), 1, "'61' is not in 0-59"),
        Line(("schedule", "set", "s", "--cron", "0 6 * * *", "--timezone", "Mars/Olympus", *task), 1, "'Mars/Olympus'"),
        Line(("schedule", "set", "s", "--every-s", "0", *task), 2, "--every-s"),
        Line(("schedule", "pause", "nobody"), 1, "There is no schedule"),
        Line(("queue", "pause", "colour"), 1, "colour"),
        Line(("agent", "spawn", "--type", "wizard"), 1, "wizard is no built-in agent type"),
        Line(("explain", str(uuid4())), 1, "There is no task"),
    ]


def _ends_badly(program: Program, line: Line) -> None:
    done = program.command(*line.words, stdin=line.stdin, timeout_s=60)
    said = (done.stdout + done.stderr).decode()
    expect(done.returncode == line.exit_code, f"{line.words}: exit {done.returncode}: {said[-600:]}")
    expect(line.said in said, f"{line.words}: {line.said!r} is not in {said[-600:]!r}")
    expect("Traceback" not in said, f"{line.words}: {said[-1500:]}")


# --- what is accepted ---


def _accepted(client: Client) -> dict[str, str]:
    """What cannot run yet says why, and runs once it can."""
    runs = {"type": "x", "executor": "command", "parameters": {"argv": ["true"]}}
    client.request("PUT", "/api/limits/shut", {"concurrency": 0})
    client.request("POST", "/api/queue/pause", {"what": "type", "name": "paused"})
    waiting: list[tuple[str, dict[str, Any], str, tuple[str, str, Any]]] = [
        ("an agent type that nobody has", {"agent_type": "wizard"}, "agent", _spawn("wizard")),
        ("a capability that nobody has", {"requires": ["gpu"]}, "agent", _spawn("painter", ["gpu"])),
        ("an agent that nobody knows", {"agent_id": str(uuid4())}, "agent", ("DELETE", "", None)),
        ("a limit of 0", {"concurrency_key": "shut"}, "concurrency", ("PUT", "/api/limits/shut", {"concurrency": 1})),
        ("a pause", {"type": "paused"}, "pause", ("POST", "/api/queue/resume", {"what": "type", "name": "paused"})),
        ("an approval", {"depends_on": [{"type": "approval"}]}, "approval", ("POST", "/approve", {"reason": "yes"})),
    ]
    said = {}
    for what, wish, kind, (method, path, body) in waiting:
        task_id = _submitted(client, runs | wish)
        said[what] = _why(client, task_id, kind)
        where = path if path.startswith("/api") else f"/api/tasks/{task_id}{path}"
        answer = client.request(method, where, body)
        expect(answer.status == 202, f"{what}: {where}: {answer.raw!r}")
        _ends(client, task_id, "cancelled" if method == "DELETE" else "completed")
    return said


def _spawn(kind: str, capabilities: list[str] | None = None) -> tuple[str, str, Any]:
    return "POST", "/api/agents", {"type": kind, "executor": "command", "capabilities": capabilities or ["magic"]}


def _why(client: Client, task_id: str, kind: str) -> str:
    """The sentence of its explanation, once the views know it."""
    deadline = time.monotonic() + SETTLE_S_MAX
    while True:
        answer = client.request("GET", f"/api/tasks/{task_id}/explain")
        reasons = answer.json.get("waits_for", []) if answer.status == 200 else []
        found = [reason["sentence"] for reason in reasons if reason["kind"] == kind]
        if found:
            return str(found[0])
        expect(time.monotonic() < deadline, f"it does not say that it waits for {kind}: {answer.raw!r}")
        time.sleep(0.05)


def _ends(client: Client, task_id: str, status: str) -> None:
    deadline = time.monotonic() + SETTLE_S_MAX
    while client.get(f"/api/tasks/{task_id}")["status"] != status:
        expect(time.monotonic() < deadline, f"{task_id} is not {status}: {client.get(f'/api/tasks/{task_id}/explain')}")
        time.sleep(0.05)


if __name__ == "__main__":
    main("scheduler-input", run)
