"""10,000 tasks with SIGKILL of program, broker, database and agent hosts: three NATS servers, Postgres, R3."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.accept.hosts import Host
from tests.accept.killing import survive
from tests.accept.program import Program
from tests.accept.script import Figures, Options, main
from tests.cluster import Cluster
from tests.postgres import PostgresCluster


def run(options: Options) -> Figures:
    """One broker node at a time: two of three are what the log needs."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(Cluster(folder / "nats"))
        database = stack.enter_context(PostgresCluster())
        settings = {**cluster.settings(), "HIVEBUS_DATABASE_URL": database.url}
        with Program(folder / "data", **settings) as program:
            api = {"HIVEBUS_URL": program.connection["url"], "HIVEBUS_KEY": _host_key(program)}
            reach = {name: value for name, value in cluster.settings().items() if "SYSTEM" not in name} | api
            hosts = [Host(folder / name, name, **reach) for name in ("far-1", "far-2")]
            try:
                for host in hosts:
                    host.start()
                for host in hosts:
                    host.begun(program.client())
                nodes = random.Random(options.seed)
                more = {"broker node": _kill_node(cluster, nodes), "database": lambda: _kill_database(database)}
                return survive(options, program, hosts, more)
            finally:
                for host in hosts:
                    host.kill()


def _host_key(program: Program) -> str:
    return (program.root / "host.key").read_text().strip()


def _kill_node(cluster: Cluster, rng: random.Random) -> Callable[[], None]:
    def kill() -> None:
        node = rng.choice(cluster.nodes)
        node.kill()
        node.start()
        cluster.wait_whole()

    return kill


def _kill_database(database: PostgresCluster) -> None:
    database.kill()
    database.start()


if __name__ == "__main__":
    main("kill-cluster", run)
