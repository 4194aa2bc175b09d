"""The systems of one table: how each is started, tuned, killed, and what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

from tests.accept.program import Program
from tests.bench.peers.processes import ROOT, Process
from tests.bench.peers.servers import nats_server, redis_server
from tests.nats_examples import printed
from tests.postgres import PostgresCluster

VENVS = Path(os.environ.get("PEERS_VENVS", ROOT / ".cache" / "peers"))
FSYNC_1_S = "fsync each 1 s"
FSYNC_FIRST = "fsync first"
SLOTS = "256"
# Tasks that wait and were evicted are read again: a queue as deep as the flood shall fit.
CACHE = "20000"


class System(ABC):
    """One row. `durability`: of an accepted task; `results`: where its end is stored; `tuned`: what was set."""

    name: str
    durability: str
    results: str
    tuned: str
    venv: str
    module: str
    tasks: int
    ours = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}
        self._servers: list[Process] = []
        self._workers: list[Process] = []

    @classmethod
    def interpreter(cls) -> Path:
        """The Python of its own environment."""
        return VENVS / cls.venv / "bin" / "python"

    @property
    def pids(self) -> list[int]:
        """The processes under test: its servers and workers; the client is not one."""
        return [process.pid for process in (*self._servers, *self._workers)]

    def start(self) -> None:
        """Servers, then workers."""
        self.serve()
        self.work()

    def kill(self) -> None:
        """SIGKILL of all workers at once."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def end(self) -> None:
        """Nothing of it runs on."""
        for process in (*self._workers, *self._servers):
            process.end()

    @abstractmethod
    def serve(self) -> None:
        """Start the servers, and know their addresses."""

    @abstractmethod
    def work(self) -> None:
        """Start the workers, also after they were killed."""

    def _worker(self, *words: str) -> None:
        command = [self.interpreter(), *words]
        self._workers.append(Process(command, self.folder / "worker.log", self.environment))


class Taskiq(System):
    name = "taskiq, 1 worker"
    durability = FSYNC_1_S
    results = "Redis"
    tuned = "JetStream pull, batches of 100, fetch 5 ms, 200 at once, acknowledged when saved in Redis"
    venv, module, tasks = "taskiq", "tests.bench.peers.taskiq_tasks", 20_000
    workers = 1

    def serve(self) -> None:
        nats, self.environment["PEER_NATS"] = nats_server(self.folder)
        self._servers.append(nats)
        redis, self.environment["PEER_REDIS"] = redis_server(self.folder)
        self._servers.append(redis)
        self.environment["PEER_WORKERS"] = str(self.workers)

    def work(self) -> None:
        at_once = ["--max-async-tasks", "200", "--max-prefetch", "200", "--ack-type", "when_saved"]
        plain = ["--no-parse", "--log-level", "WARNING", "--workers", str(self.workers)]
        self._worker("-m", "taskiq", "worker", f"{self.module}:broker", *at_once, *plain)


class TaskiqTwice(Taskiq):
    name = "taskiq, 2 workers"
    workers = 2


class FastStream(System):
    name = "FastStream"
    durability = FSYNC_1_S
    results = "none"
    tuned = "JetStream push, 100 handlers, 10,000 unacknowledged, uvloop"
    venv, module, tasks = "faststream", "tests.bench.peers.faststream_tasks", 20_000

    def serve(self) -> None:
        nats, self.environment["PEER_NATS"] = nats_server(self.folder)
        self._servers.append(nats)

    def work(self) -> None:
        self._worker("-m", self.module)


class Celery(System):
    name = "Celery + Redis"
    durability = FSYNC_1_S
    results = "Redis"
    tuned = "solo (the cheapest pool for no-ops), prefetch 256, acks late, visible again after 10 s"
    venv, module, tasks = "celery", "tests.bench.peers.celery_tasks", 4_000

    def serve(self) -> None:
        redis, self.environment["PEER_REDIS"] = redis_server(self.folder)
        self._servers.append(redis)

    def work(self) -> None:
        pool = ["--pool", "solo", "--concurrency", "1", "--prefetch-multiplier", "256"]
        quiet = ["--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
        self._worker("-m", "celery", "-A", self.module, "worker", *pool, *quiet)


class Procrastinate(System):
    name = "procrastinate"
    durability = FSYNC_FIRST
    results = "Postgres"
    tuned = "submitted in batches of 500, 20 at once, polls each 100 ms; a task looks for stalled jobs each 10 s"
    venv, module, tasks = "procrastinate", "tests.bench.peers.procrastinate_tasks", 2_000

    def serve(self) -> None:
        self._postgres = PostgresCluster(durable=True).start()
        self.environment["PEER_POSTGRES"] = self._postgres.url
        command = [self.interpreter(), "-m", "procrastinate", "--app", f"{self.module}.app", "schema", "--apply"]
        environment = os.environ | self.environment
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=60, capture_output=True)

    def work(self) -> None:
        # A notification can be missed: the default looks again after 5 s.
        at_once = ["--concurrency", "20", "--fetch-job-polling-interval", "0.1"]
        self._worker("-m", "procrastinate", "--app", f"{self.module}.app", "worker", *at_once)

    @property
    def pids(self) -> list[int]:
        return [*super().pids, self._postgres.pid]

    def end(self) -> None:
        super().end()
        if hasattr(self, "_postgres"):
            self._postgres.close()


class Ours(System):
    """`hivebus up`, all in one process: beside it run its nats-server and the warden of its children."""

    name = "Hivebus fast, 1 process"
    durability = FSYNC_1_S
    results = "SQLite"
    tuned = "256 slots, 20,000 aggregates cached; POST in batches of 500, single ones by NATS; results in log and views"
    venv, module, tasks = "hivebus", "tests.bench.peers.hivebus_tasks", 10_000
    ours = True
    profile = "fast"
    # Of each process.
    roles: tuple[str, ...] = ("api,recorder,scheduler,agents",)

    @classmethod
    def interpreter(cls) -> Path:
        return Path(sys.executable)

    def serve(self) -> None:
        path = os.pathsep.join([str(_registered(self.folder)), str(ROOT)])
        settings = {"HIVEBUS_PROFILE": self.profile, "HIVEBUS_PYTHON_SLOTS": SLOTS, "HIVEBUS_SLOTS": SLOTS}
        settings["HIVEBUS_CACHE_AGGREGATES"] = CACHE
        data = self.folder / "data"
        self._parts = {roles: Program(data, PYTHONPATH=path, HIVEBUS_ROLES=roles, **settings) for roles in self.roles}

    def work(self) -> None:
        for roles, program in self._parts.items():
            if program.running:
                continue
            # Only who serves the API says when it is ready, and it waits for the others by itself.
            if "api" in roles:
                program.start()
            else:
                program.launch()
        api = next(program for roles, program in self._parts.items() if "api" in roles)
        self.environment |= {"PEER_URL": api.connection["url"], "PEER_KEY": api.key, **printed(api.root)}

    @property
    def pids(self) -> list[int]:
        return [program.pid for program in self._parts.values() if program.running]

    def kill(self) -> None:
        """SIGKILL of the process that runs the agents; where it is the only one, its broker dies with it."""
        next(program for roles, program in self._parts.items() if "agents" in roles).kill()

    def end(self) -> None:
        for program in reversed(getattr(self, "_parts", {}).values()):
            if program.running:
                program.terminate()


class OursTwice(Ours):
    name = "Hivebus fast, 2 processes"
    roles = ("recorder", "api,scheduler,agents")


class OursDurable(Ours):
    name = "Hivebus durable, 1 process"
    durability = FSYNC_FIRST
    profile = "durable"


class OursDurableTwice(OursDurable):
    name = "Hivebus durable, 2 processes"
    roles = OursTwice.roles


SYSTEMS: tuple[type[System], ...] = (
    *(Ours, OursTwice, OursDurable, OursDurableTwice),
    *(Taskiq, TaskiqTwice, FastStream, Celery, Procrastinate),
)


def _registered(folder: Path) -> Path:
    """A folder for the module path with a distribution that registers the probe's functions as task functions."""
    packages = folder / "packages"
    described = packages / "bench_tasks-1.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-tasks\nVersion: 1\n")
    points = "\n".join(f"bench_{name} = tests.bench.peers.probe:{name}" for name in ("stamp", "hold"))
    (described / "entry_points.txt").write_text(f"[hivebus.tasks]\n{points}\n")
    return packages
