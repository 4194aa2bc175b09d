"""Show 3.3: a killed agent host's tasks run elsewhere in under 1 s, a stopped one's within the lease.

A broker's restart requeues nothing healthy.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.accept.hosts import Host, attempts_of
from tests.accept.program import Client, Program, gone
from tests.accept.script import Figures, Options, expect, main, note
from tests.cluster import Cluster

SLOTS = 4
ELSEWHERE_S_MAX = 1.0
SETTLE_S_MAX = 60.0
HEALTHY_S = 4.0


def run(options: Options) -> Figures:
    """Kill, stop and wake hosts; restart the broker under them: embedded, and one node of three."""
    with tempfile.TemporaryDirectory() as folder:
        figures = _embedded(options, Path(folder))
        return figures | _cluster(options, Path(folder) / "cluster")


def _embedded(options: Options, folder: Path) -> Figures:
    times = {"HIVEBUS_LEASE_S": "4", "HIVEBUS_SELF_STOP_S": "3", "HIVEBUS_BEAT_S": "1"} if options.fast else {}
    with _fleet(folder / "data", times, times) as (program, client, hosts):
        killed = _kill(options, client, hosts[0], {"HIVEBUS_DATA_DIR": str(program.root)})
        stopped = _stop(client, hosts[1], lease_s=float(times.get("HIVEBUS_LEASE_S", "20")))
        restarted = _restart_embedded(program, client)
        verified = program.command("verify", "--json")
        expect(verified.returncode == 0, f"verify: {verified.stdout!r} {verified.stderr!r}")
        return {"embedded": {"killed": killed, "stopped": stopped, "broker_killed": restarted}}


def _cluster(options: Options, folder: Path) -> Figures:
    with Cluster(folder) as cluster:
        settings = cluster.settings()
        host_settings = {name: value for name, value in settings.items() if "SYSTEM" not in name}
        with _fleet(folder / "data", settings, host_settings) as (_, client, hosts):
            killed = _kill(options, client, hosts[0], host_settings)
            long = _submit(client, 2 * SLOTS, "sleep 600")
            before = _running(client, long)
            requeued, nodes = 0, cluster.nodes[:1] if options.fast else cluster.nodes
            for node in nodes:
                node.kill()
                node.start()
                cluster.wait_whole()
                requeued += _requeued(client, long, before)
                note(f"node {node.name} killed and started again: all {len(long)} attempts go on")
            _cancel(client, long)
            return {"cluster": {"killed": killed, "nodes_restarted": len(nodes), "requeued": requeued}}


@contextmanager
def _fleet(
    root: Path, settings: dict[str, str], host_settings: dict[str, str]
) -> Iterator[tuple[Program, Client, list[Host]]]:
    """A program and two hosts elsewhere."""
    slots = {"HIVEBUS_SHELL_SLOTS": str(SLOTS)}
    with Program(root, **settings, **slots) as program:
        client = program.client()
        api = {"HIVEBUS_URL": program.connection["url"], "HIVEBUS_KEY": (root / "host.key").read_text().strip()}
        hosts = [Host(root, f"far-{number}", **host_settings, **slots, **api) for number in (1, 2)]
        try:
            for host in hosts:
                host.start()
            for host in hosts:
                host.begun(client)
            yield program, client, hosts
        finally:
            for host in hosts:
                host.kill()


def _kill(options: Options, client: Client, host: Host, settings: dict[str, str]) -> Figures:
    """SIGKILL of a host with running tasks, again and again: how long until each of them runs elsewhere."""
    rounds = options.count(10, 2)
    took_s: list[float] = []
    for number in range(rounds):
        tasks = _submit(client, 2 * SLOTS, "sleep 600")
        on_host = [task for task, host_id in _running(client, tasks).items() if host_id == host.id]
        expect(on_host, "no task ran on the host")
        family = host.family()
        killed_ms = time.time() * 1000
        host.kill()
        for task in on_host:
            again = _runs_again(client, task, host.id)
            took_s.append((again["started_ms"] - killed_ms) / 1000)
        ghosts = gone(family, within_s=5.0)
        expect(not ghosts, f"survived their host: {[process.cmdline() for process in ghosts]}")
        _cancel(client, tasks)
        note(f"kill {number + 1}/{rounds}: {len(on_host)} tasks ran elsewhere after {max(took_s):.3f} s at most")
        host.start()
        host.begun(client)
    expect(max(took_s) < ELSEWHERE_S_MAX, f"a task ran elsewhere only after {max(took_s):.3f} s")
    return {"rounds": rounds, "tasks": len(took_s), "elsewhere_s_max": round(max(took_s), 3)}


def _stop(client: Client, host: Host, *, lease_s: float) -> Figures:
    """SIGSTOP of a host, and SIGCONT once its tasks have gone: what it still says is not accepted."""
    tasks = _submit(client, 3 * SLOTS, "sleep 3; echo done")
    on_host = [task for task, host_id in _running(client, tasks).items() if host_id == host.id]
    expect(on_host, "no task ran on the host")
    stopped_ms = time.time() * 1000
    host.signal(signal.SIGSTOP)
    started = [_runs_again(client, task, host.id, within_s=lease_s + 10)["started_ms"] for task in on_host]
    took_s = (max(started) - stopped_ms) / 1000
    expect(took_s < lease_s + 2.0, f"a task ran elsewhere only after {took_s:.1f} s, the lease is {lease_s:g} s")
    host.signal(signal.SIGCONT)
    _ended(client, tasks)
    attempts = attempts_of(client.events())
    for task in tasks:
        ends = [attempt["ended"] for attempt in attempts[f"task/{task}"]]
        expect(ends.count("completed") == 1, f"task {task} ended as {ends}")
    host.begun(client)
    note(f"SIGSTOP: {len(on_host)} tasks ran elsewhere after {took_s:.1f} s; the lease is {lease_s:g} s")
    return {"tasks": len(on_host), "lease_s": lease_s, "elsewhere_s_max": round(took_s, 2)}


def _restart_embedded(program: Program, client: Client) -> Figures:
    """SIGKILL of nats-server beneath a program and hosts whose attempts run."""
    tasks = _submit(client, 2 * SLOTS, "sleep 600")
    before = _running(client, tasks)
    broker = next(process for process in psutil.Process(program.pid).children() if process.name() == "nats-server")
    broker.kill()
    requeued = _requeued(client, tasks, before)
    _cancel(client, tasks)
    note(f"broker killed and started again: all {len(tasks)} attempts go on")
    return {"tasks": len(tasks), "requeued": requeued}


def _requeued(client: Client, tasks: list[str], before: dict[str, str]) -> int:
    """Given time for whoever wanted to give a host up, how many were requeued: none may be; commands are answered."""
    time.sleep(HEALTHY_S)
    _cancel(client, _submit(client, 1, "true"))
    attempts = attempts_of(client.events())
    for task in tasks:
        found = attempts[f"task/{task}"]
        expect(len(found) == 1 and found[0]["ended"] is None, f"task {task} was requeued: {found}")
        expect(found[0]["host"] == before[task], "an attempt changed its host")
    return sum(len(attempts[f"task/{task}"]) - 1 for task in tasks)


def _submit(client: Client, count: int, script: str) -> list[str]:
    item = {"type": "long", "executor": "command", "parameters": {"argv": ["sh", "-c", script]}}
    deadline = time.monotonic() + SETTLE_S_MAX
    while True:
        answer = client.request("POST", "/api/tasks", [item] * count)
        if answer.status != 503 or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    expect(answer.status < 300, f"POST: {answer.status} {answer.raw[:300]!r}")
    return [result["task_id"] for result in answer.json["items"]]


def _running(client: Client, tasks: list[str]) -> dict[str, str]:
    """Once all of them run: the host of each."""
    deadline = time.monotonic() + SETTLE_S_MAX
    while True:
        attempts = attempts_of(client.events())
        found = {task: attempts.get(f"task/{task}", [])[-1:] for task in tasks}
        if all(last and last[0]["started_ms"] for last in found.values()):
            return {task: last[0]["host"] for task, last in found.items()}
        expect(time.monotonic() < deadline, f"not all tasks run: {found}")
        time.sleep(0.05)


def _runs_again(client: Client, task: str, not_on: str, *, within_s: float = 20.0) -> dict[str, Any]:
    """The attempt that began after the one on the lost host."""
    deadline = time.monotonic() + within_s
    while True:
        last = attempts_of(client.events(id=task))[f"task/{task}"][-1]
        if last["host"] != not_on and last["started_ms"]:
            return last
        expect(time.monotonic() < deadline, f"task {task} did not run elsewhere within {within_s:g} s: {last}")
        time.sleep(0.02)


def _cancel(client: Client, tasks: list[str]) -> None:
    for task in tasks:
        client.request("DELETE", f"/api/tasks/{task}")
    _ended(client, tasks)


def _ended(client: Client, tasks: list[str]) -> None:
    deadline = time.monotonic() + SETTLE_S_MAX
    for task in tasks:
        while client.get(f"/api/tasks/{task}")["status"] not in ("completed", "failed", "cancelled"):
            expect(time.monotonic() < deadline, f"task {task} did not end")
            time.sleep(0.05)


if __name__ == "__main__":
    main("host-loss", run)
