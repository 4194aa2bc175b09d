"""Tasks under way while everything that runs is killed with SIGKILL, in turn and at random moments."""

from __future__ import annotations

import http.client
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping

from tests.accept.hosts import Host
from tests.accept.kill import SETTLE_S_MAX, Submitter, check, settle
from tests.accept.program import Client, Program, gone
from tests.accept.script import Figures, Options, expect, note

READY_S_MAX = 60.0

Kill = Callable[[], None]


def survive(options: Options, program: Program, hosts: list[Host], more: Mapping[str, Kill]) -> Figures:
    """Kill program, hosts and `more` while tasks are submitted and run; hold what must hold, and count."""
    tasks, kills = options.count(10_000, 400), options.count(40, 6)
    rng = random.Random(options.seed)
    submitters = [Submitter(program, list(range(start, tasks, 8))) for start in range(8)]
    for submitter in submitters:
        submitter.start()
    victims: dict[str, Kill] = {"program": lambda: _kill_program(program), **more}
    victims |= {f"host {host.name}": lambda host=host: _kill_host(host) for host in hosts}  # type: ignore[misc]
    killed: Counter[str] = Counter()
    for name in _order(rng, list(victims), kills):
        time.sleep(rng.uniform(0.2, 2.0))
        started = time.monotonic()
        victims[name]()
        killed[name] += 1
        note(f"kill {killed.total()}/{kills}: {name}, up again after {time.monotonic() - started:.2f} s")
    for submitter in submitters:
        submitter.join(SETTLE_S_MAX)
        expect(not submitter.is_alive(), "a submitter never got its answers")
    acknowledged = {n: ids for submitter in submitters for n, ids in submitter.acknowledged.items()}
    client = _ready(program)
    settle(client, tasks)
    figures = check(client, acknowledged, tasks)
    verified = program.command("verify", "--json")
    expect(verified.returncode == 0, f"verify: {verified.stdout!r} {verified.stderr!r}")
    retries = sum(submitter.retries for submitter in submitters)
    return {"tasks": tasks, "killed": dict(killed), "client_retries": retries, **figures}


def _order(rng: random.Random, names: list[str], kills: int) -> list[str]:
    """Each victim as often as the others, in a random order."""
    order = [names[number % len(names)] for number in range(kills)]
    rng.shuffle(order)
    return order


def _kill_program(program: Program) -> None:
    family = program.family()
    program.kill()
    alive = gone(family, within_s=5.0)
    expect(not alive, f"survived the SIGKILL of the program: {[process.cmdline() for process in alive]}")
    program.start()


def _kill_host(host: Host) -> None:
    family = host.family()
    host.kill()
    alive = gone(family, within_s=5.0)
    expect(not alive, f"survived the SIGKILL of a host: {[process.cmdline() for process in alive]}")
    host.start()


def _ready(program: Program) -> Client:
    """A client of the program, once its queries answer again."""
    deadline = time.monotonic() + READY_S_MAX
    while True:
        try:
            client = program.client()
            client.get("/api/tasks?limit=1")
            return client
        except (OSError, ValueError, RuntimeError, http.client.HTTPException) as error:
            expect(time.monotonic() < deadline, f"it does not answer: {error}")
            time.sleep(0.2)
