"""Show 5.2: 64 agents of many types, 20,000 mixed tasks, and SIGKILL of hosts and of the program while they run.

Everything is drawn from the seed: what is submitted, how it must end, what is killed and after how long. Afterwards the
whole log is read and folded by rules of this script's own (tests/accept/mixed_log.py).
"""

from __future__ import annotations

import datetime
import http.client
import os
import random
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.accept import mixed_functions
from tests.accept.hosts import Host
from tests.accept.mixed_log import FINAL, Log, Task
from tests.accept.mixed_plan import CONCURRENCY, FAIRNESS, LANE, RATES, TYPES, Plan, Planned
from tests.accept.program import Answer, Program, gone
from tests.accept.script import Failed, Figures, Options, expect, main, note

AGENTS = 64
HOSTS = 3
BATCH = 100
SUBMITTERS, ACTORS = 2, 6
RAISED_AT = 5
PROGRAM_KILLS_SHARE = 8
SETTLE_S_MAX = 400.0
ANSWER_S_MAX = 60.0
RUNS_S = (20.0, 75.0)
EXACT = "exact"


def run(options: Options) -> Figures:
    """Submit with a bounded number in flight, kill, wait for every end, read the log, verify the views."""
    tasks, kills = options.count(20_000, 1_500), options.count(32, 6)
    with tempfile.TemporaryDirectory() as folder, _fleet(Path(folder)) as (program, hosts):
        plan = Plan(options.seed, tasks)
        driver = Driver(program, plan, in_flight_max=options.count(1_000, 400))
        driver.set_up(runs_s=RUNS_S[0 if options.fast else 1])
        killer = Killer(program, hosts, random.Random(options.seed + 1), kills)
        began = time.monotonic()
        killer.start()
        driver.drive()
        took_s = time.monotonic() - began
        killer.join(SETTLE_S_MAX)
        expect(killer.failed is None, str(killer.failed))
        driver.wait_for_schedules()
        note(f"{tasks} tasks have ended after {took_s:.1f} s; reading the log")
        log = Log()
        for event in program.client().events():
            log.fold(event)
        figures = _check(log, plan, driver)
        verified = program.command("verify", "--json")
        expect(verified.returncode == 0, f"verify: {verified.stdout!r} {verified.stderr!r}")
        return {
            "agents": AGENTS,
            "tasks": tasks,
            "tasks_per_s": round(tasks / took_s, 1),
            "killed": dict(killer.killed),
            **figures,
        }


@contextmanager
def _fleet(folder: Path) -> Iterator[tuple[Program, list[Host]]]:
    """The whole program, and hosts in processes of their own; all of them know the script's functions."""
    mixed_functions.install(folder / "functions")
    path = os.pathsep.join(filter(None, (str(folder / "functions"), os.environ.get("PYTHONPATH", ""))))
    settings = {"PYTHONPATH": path, "HIVEBUS_SLOTS": "28", "HIVEBUS_LOG_LEVEL": "warning"}
    with Program(folder / "data", **settings) as program:
        hosts = [Host(program.root, f"far-{number + 1}", **settings) for number in range(HOSTS)]
        try:
            for host in hosts:
                host.start()
            for host in hosts:
                host.begun(program.client())
            yield program, hosts
        finally:
            for host in hosts:
                host.kill()


class Killer(threading.Thread):
    """SIGKILL of hosts and of the program, in an order and after times that the seed gives; each is started again."""

    def __init__(self, program: Program, hosts: list[Host], rng: random.Random, kills: int) -> None:
        super().__init__(daemon=True)
        self._program, self._hosts, self._rng = program, hosts, rng
        programs = max(1, kills // PROGRAM_KILLS_SHARE)
        self._order: list[Host | None] = [None] * programs
        self._order += [hosts[number % len(hosts)] for number in range(kills - programs)]
        rng.shuffle(self._order)
        self.killed: Counter[str] = Counter()
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            for number, host in enumerate(self._order):
                time.sleep(self._rng.uniform(1.0, 5.0))
                name = "the program" if host is None else host.name
                self._kill(self._program if host is None else host)
                self.killed["program" if host is None else "hosts"] += 1
                note(f"kill {number + 1}/{len(self._order)}: {name}")
        except BaseException as error:
            self.failed = error

    def _kill(self, victim: Program | Host) -> None:
        family = victim.family()
        victim.kill()
        alive = gone(family, within_s=5.0)
        expect(not alive, f"survived the SIGKILL of a parent: {[process.cmdline() for process in alive]}")
        victim.start()


class Driver:
    """Submits the plan, follows the log, and does to the tasks what the plan says is done to them."""

    def __init__(self, program: Program, plan: Plan, in_flight_max: int) -> None:
        self._program = program
        self._plan = plan
        self._in_flight_max = in_flight_max
        self._local = threading.local()
        self._lock = threading.Lock()
        # Apart, so that a cancel does not wait behind batches until what it is for has ended.
        self._submitters, self._actors = ThreadPoolExecutor(SUBMITTERS), ThreadPoolExecutor(ACTORS)
        self._failed: BaseException | None = None
        self._by_id: dict[str, Planned] = {}
        self._seen: defaultdict[str, set[str]] = defaultdict(set)
        self._runs: set[str] = set()
        self._in_flight = 0
        self._after = 0
        self._batches = 0
        self.until = 0.0
        self.retries = 0
        self.late_cancels = 0

    # --- calls ---

    def _call(self, method: str, path: str, body: Any = None, key: str | None = None) -> Answer:
        """Ask until there is an answer; a key makes the repeats one."""
        deadline = time.monotonic() + ANSWER_S_MAX
        while True:
            try:
                client = self._local.client = getattr(self._local, "client", None) or self._program.client()
                answer: Answer = client.request(method, path, body, {"Idempotency-Key": key} if key else {})
                if answer.status not in (503, 504) and not _partial(answer):
                    return answer
            except (OSError, ValueError, http.client.HTTPException):
                self._local.client = None
            self.retries += 1
            expect(time.monotonic() < deadline, f"{method} {path} is not answered")
            time.sleep(0.1)

    def _accepted(self, method: str, path: str, body: Any, key: str | None = None) -> Any:
        answer = self._call(method, path, body, key)
        expect(answer.status == 202, f"{method} {path}: {answer.status} {answer.raw[:300]!r}")
        return answer.json

    def set_up(self, runs_s: float) -> None:
        """Limits, weights, agents and schedules."""
        for key, concurrency in CONCURRENCY.items():
            if concurrency is not None:
                self._accepted("PUT", f"/api/limits/{key}", {"concurrency": concurrency})
        for key, (rate, burst) in RATES.items():
            self._accepted("PUT", f"/api/limits/{key}", {"rate_per_s": rate, "burst": burst})
        for key, weight in FAIRNESS.items():
            self._accepted("PUT", f"/api/limits/{key}", {"weight": weight})
        there = len(self._call("GET", "/api/agents").json["agents"])
        self._spawn({"type": LANE, "executor": "python", "slots": 1})
        for number in range(AGENTS - there - 1):
            kind = TYPES[number % len(TYPES)]
            executor = "command" if number % 10 == 9 else "python"
            capabilities = [f"can-{kind}"] if executor == "python" else ["shell"]
            type_ = kind if executor == "python" else "runner"
            body = {"type": type_, "executor": executor, "capabilities": capabilities, "slots": 1 + number % 3}
            self._spawn(body)
        found = self._call("GET", "/api/agents").json["agents"]
        expect(len(found) == AGENTS, f"{len(found)} agents, not {AGENTS}")
        self.until = time.time() + runs_s
        self._set_schedules(datetime.datetime.fromtimestamp(self.until, datetime.UTC).isoformat(), runs_s)

    def _spawn(self, body: dict[str, Any]) -> None:
        answer = self._call("POST", "/api/agents?wait=recorded", body)
        expect(answer.status < 300, f"spawn: {answer.raw!r}")

    def _set_schedules(self, until: str, runs_s: float) -> None:
        """Each due time of `exact` must run; the others may leave out what overlaps or is late."""
        retry = {"max_crashes": 100}
        noop = {"type": "run", "executor": "python", "parameters": {"function": "noop"}, "retry": retry}
        nap = noop | {"parameters": {"function": "sleep", "arguments": {"seconds": 1.5}}}
        schedules: dict[str, dict[str, Any]] = {
            f"{EXACT}-1": {"task": noop, "every_s": 1, "missed": "run_all", "overlap": "allow"},
            f"{EXACT}-3": {"task": noop | {"priority": 9}, "every_s": 3, "missed": "run_all", "overlap": "allow"},
            "overlapping": {"task": nap, "every_s": 1, "missed": "run_once", "overlap": "skip"},
            "once": {"task": noop, "every_s": 2, "missed": "run_once", "overlap": "allow"},
        }
        if runs_s > 61:
            cron = {"task": noop, "cron": "* * * * *", "timezone": "Europe/Berlin"}
            schedules[f"{EXACT}-cron"] = cron | {"missed": "run_all", "overlap": "allow"}
        for name, body in schedules.items():
            self._accepted("PUT", f"/api/schedules/{name}", body | {"until": until})

    # --- the run ---

    def drive(self) -> None:
        """Until each planned task has ended."""
        try:
            self._drive()
            self._submitters.shutdown()
            self._actors.shutdown()
            self._raise()
        finally:
            for pool in (self._submitters, self._actors):
                pool.shutdown(wait=False, cancel_futures=True)

    def _drive(self) -> None:
        batches = self._plan.batches(BATCH)
        more: list[Planned] | None = next(batches)
        deadline = time.monotonic() + SETTLE_S_MAX
        while more is not None or self._in_flight:
            while more is not None and self._in_flight < self._in_flight_max:
                with self._lock:
                    self._in_flight += len(more)
                self._batches += 1
                self._later(self._submitters, self._submit, more, f"batch-{self._batches}")
                more = next(batches, None)
                if self._batches == RAISED_AT:
                    # A limit that is raised in the middle lets more through from there on.
                    self._accepted("PUT", "/api/limits/two", {"concurrency": 4})
            self._follow()
            self._raise()
            if time.monotonic() > deadline:
                raise Failed(f"{self._in_flight} tasks do not end: {self._lingering()}")

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _lingering(self) -> list[Any]:
        ids = [id_ for id_ in list(self._by_id) if not self._seen[id_] & FINAL]
        return [self._call("GET", f"/api/tasks/{id_}").json for id_ in ids[:3]]

    def _later(self, pool: ThreadPoolExecutor, work: Callable[..., None], *arguments: Any) -> None:
        """Call it beside; what it raises is raised by `drive`."""

        def ended(future: Future[None]) -> None:
            self._failed = self._failed or future.exception()

        pool.submit(work, *arguments).add_done_callback(ended)

    def _submit(self, batch: list[Planned], key: str) -> None:
        said = self._accepted("POST", "/api/tasks", [planned.sent() for planned in batch], key)
        expect(said["refused"] == 0, f"refused: {[item for item in said['items'] if 'error' in item][:3]}")
        for planned, item in zip(batch, said["items"], strict=True):
            with self._lock:
                self._by_id[item["task_id"]] = planned
                seen = set(self._seen[item["task_id"]])
            if planned.act is not None and _WHEN[planned.act] in (None, *seen):
                self._later(self._actors, self._act, item["task_id"], planned)

    def _follow(self) -> None:
        answer = self._call("GET", f"/api/events?after={self._after}&noun=task&wait=0.2&limit=1000")
        self._after = int(answer.headers["hivebus-next"])
        for event in answer.lines:
            kind, id_ = event["type"].removeprefix("hivebus."), event["subject"].removeprefix("task/")
            if kind == "task.submitted" and "schedule_id" in event["data"]:
                self._runs.add(id_)
            if id_ in self._runs:
                continue
            with self._lock:
                first = kind not in self._seen[id_]
                self._seen[id_].add(kind)
                planned = self._by_id.get(id_)
                self._in_flight -= kind in FINAL
            if first and planned is not None and planned.act is not None and _WHEN[planned.act] == kind:
                self._later(self._actors, self._act, id_, planned)

    def _act(self, id_: str, planned: Planned) -> None:
        key = f"{planned.act}-{planned.number}"
        match planned.act:
            case "cancel" | "cancel_running":
                answer = self._call("DELETE", f"/api/tasks/{id_}", key=key)
                late = planned.kind == "cancel race" and answer.status == 409
                self.late_cancels += late
                expect(late or answer.status == 202, f"cancel of {planned.kind}: {answer.status} {answer.raw[:300]!r}")
            case "answer":
                self._accepted("POST", f"/api/tasks/{id_}/answer", {"answer": "this"}, key)
            case "approve":
                self._accepted("POST", f"/api/tasks/{id_}/approve", {"reason": "the plan says so"}, key)

    def wait_for_schedules(self) -> None:
        """Until the schedules are over, and their runs too."""
        time.sleep(max(0.0, self.until + 1.0 - time.time()))
        deadline = time.monotonic() + ANSWER_S_MAX
        while any(self._call("GET", f"/api/tasks?status={status}&limit=1").json["tasks"] for status in _LIVE):
            expect(time.monotonic() < deadline, "a run of a schedule does not end")
            time.sleep(0.2)


# What an act waits for; the first time it is seen counts.
_WHEN = {"cancel": None, "cancel_running": "task.started", "answer": "task.asked", "approve": "task.blocked"}
_LIVE = ("blocked", "scheduled", "queued", "assigned", "running", "input_required")


def _partial(answer: Answer) -> bool:
    """Whether some item of a batch was refused for now: the batch is sent again under its key."""
    if answer.status >= 300 or b'"refused"' not in answer.raw:
        return False
    return any(item.get("error", {}).get("status") in (429, 503, 504) for item in answer.json.get("items", ()))


# --- what the log must say ---


def _check(log: Log, plan: Plan, driver: Driver) -> Figures:
    by_name: dict[str, Task] = {}
    runs = []
    for task in log.tasks.values():
        if task.spec["schedule_id"] is not None:
            runs.append(task)
            continue
        expect(task.spec["name"] not in by_name, f"task {task.spec['name']} is submitted twice")
        by_name[task.spec["name"]] = task
    expect(len(by_name) == len(plan.all), f"{len(by_name)} tasks are on the log, not {len(plan.all)}")
    for planned in plan.all:
        _check_task(planned, by_name[str(planned.number)])
    expect(all(task.status == "completed" for task in runs), "a run of a schedule did not complete")
    expect(not +log.using and not +log.holding and not log.lane, "an attempt is held still")
    outcomes = Counter(outcome for task in log.tasks.values() for outcome in task.outcomes)
    return {
        "kinds": dict(sorted(Counter(planned.kind for planned in plan.all).items())),
        "ends": dict(sorted(Counter(task.status for task in log.tasks.values()).items())),
        "schedules": _check_schedules(log),
        "attempts": log.counts["task.assigned"],
        "attempts_lost": outcomes["crashed"] + outcomes["lease_expired"] + outcomes["voided"],
        "concurrency_full": {key: log.full[key] for key in CONCURRENCY},
        "rated": log.counts["rated"],
        "lane_choices": log.counts["lane choices"],
        "elections": log.counts["scheduler.elected"],
        "events": sum(log.counts.values()),
        "last_position": log.position,
        "client_retries": driver.retries,
        "late_cancels": driver.late_cancels,
    }


def _check_task(planned: Planned, task: Task) -> None:
    """It ended as the seed foresees."""
    what = f"task {planned.number} ({planned.kind})"
    expect(task.status in planned.ends, f"{what} is {task.status}, not {' or '.join(planned.ends)}: {task.end}")
    own = [outcome for outcome in task.outcomes if outcome in ("failed", "timed_out")]
    expect(planned.failed is None or len(own) == planned.failed, f"{what} failed {own}, not {planned.failed} times")
    reason = task.end.get("outcome") or (task.end.get("reason") if task.status == "expired" else None)
    expect(reason == planned.reason, f"{what} ended by {reason}, not by {planned.reason}")
    value = task.end.get("result", {}).get("value")
    expect(planned.value is None or value == planned.value, f"{what} gave {value}, not {planned.value}")


def _check_schedules(log: Log) -> Figures:
    """A due time ran once or was skipped for a reason; those of `exact` all ran."""
    skipped: Counter[str] = Counter()
    runs = 0
    for schedule in log.schedules.values():
        name, ran = schedule.spec["name"], sorted(schedule.ran)
        expect(len(set(ran)) == len(ran), f"{name}: a time ran twice")
        expect(ran == schedule.marked, f"{name}: runs at {ran}, marked are {schedule.marked}")
        due = _due_times(schedule.spec, schedule.set_ms)
        expect(set(ran) <= set(due), f"{name}: a run at a time that was not due")
        ends = [until for until, _ in schedule.skipped]
        expect(max([*ran, *ends]) >= due[-1], f"{name}: {due[-1]} is not dealt with")
        if name.startswith(EXACT):
            expect(ran == due, f"{name}: {len(ran)} of {len(due)} due times ran, {schedule.skipped} were skipped")
        skipped.update(reason for _, reason in schedule.skipped)
        runs += len(ran)
    return {"runs": runs, "skipped": dict(skipped)}


def _due_times(spec: dict[str, Any], set_ms: int) -> list[int]:
    if spec["cron"] is not None:
        return list(range((set_ms // 60_000 + 1) * 60_000, spec["until_ms"] + 1, 60_000))
    step_ms = spec["every_s"] * 1000
    return list(range(set_ms + step_ms, spec["until_ms"] + 1, step_ms))


if __name__ == "__main__":
    main("mixed", run)
