"""A real NATS cluster on loopback for tests, benches and acceptance scripts: start it, kill a node, ask who leads.

    with Cluster(folder) as cluster:
        program = Program(root, **cluster.settings())
        leader = cluster.stream_leader()
        leader.kill()
        leader.start()

Nothing here needs pytest or an event loop; each call blocks, with a deadline. The nodes end with the `with`.
"""

from __future__ import annotations

import atexit
import json
import random
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from adapters.jetstream.api import STREAM
from adapters.jetstream.broker import Access
from adapters.jetstream.server import find_binary

START_S_MAX = 20.0
READY_S_MAX = 60.0
STOP_S_MAX = 20.0
POLL_S = 0.02

USER, PASSWORD = "hivebus", "a-password-of-the-test"
SYSTEM_USER, SYSTEM_PASSWORD = "system", "a-system-password-of-the-test"


class Node:
    """One nats-server. Its ports stay its own over restarts."""

    def __init__(self, name: str, folder: Path, text: Callable[[Node], str], *, routed: bool = True) -> None:
        """`text` gives the configuration; it is asked at each start."""
        self.name = name
        self.folder = folder
        self.port, self.monitor_port, self.route_port = free_port(), free_port(), free_port() if routed else 0
        self.log = folder / f"{name}.log"
        self._text = text
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def store(self) -> Path:
        return self.folder / self.name

    def start(self) -> None:
        """Start it and wait until it answers; what it knows of its peers comes later."""
        assert not self.running, f"{self.name} runs already"
        path = self.folder / f"{self.name}.conf"
        path.write_text(self._text(self))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([str(find_binary()), "-c", str(path)], stdout=log, stderr=log)
        atexit.register(self.kill)
        until(self._answers, START_S_MAX, lambda: f"{self.name} did not start:\n{self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL. A repeat is harmless."""
        if self._process is not None and self.running:
            self._process.kill()
            self._process.wait()
        atexit.unregister(self.kill)

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        if self._process is not None and self.running:
            self._process.terminate()
            self._process.wait(STOP_S_MAX)
        atexit.unregister(self.kill)

    def monitor(self, path: str) -> dict[str, Any]:
        """A page of the server's monitoring endpoint; empty while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor_port}{path}", timeout=2.0) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (OSError, ValueError):
            return {}

    def _answers(self) -> bool:
        if not self.running:
            raise RuntimeError(f"{self.name} ended at once:\n{self.log.read_text()[-2000:]}")
        return self.monitor("/varz").get("server_name") == self.name


class Cluster:
    """Three nodes (or `size`) with JetStream on disk, synced at every write, an account for the log and one for the
    system."""

    def __init__(
        self, folder: Path, *, size: int = 3, sync_interval: str = "always", extra: str = "", tls: str = ""
    ) -> None:
        """`extra` goes into each configuration as it is; `tls` into its `tls` block."""
        self._folder = folder
        self._sync_interval = sync_interval
        self._extra = extra
        self._tls = tls
        self.nodes = [Node(f"n{number}", folder, self._configuration) for number in range(1, size + 1)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(f"{'tls' if self._tls else 'nats'}://127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def access(self) -> Access:
        """How the program logs in."""
        return Access(urls=self.urls, user=USER, password=PASSWORD)

    @property
    def system_access(self) -> Access:
        return Access(urls=self.urls, user=SYSTEM_USER, password=SYSTEM_PASSWORD)

    def settings(self) -> dict[str, str]:
        """The variables that make a program use this cluster."""
        return {
            "HIVEBUS_NATS_URL": ",".join(self.urls),
            "HIVEBUS_NATS_USER": USER,
            "HIVEBUS_NATS_PASSWORD": PASSWORD,
            "HIVEBUS_NATS_SYSTEM_USER": SYSTEM_USER,
            "HIVEBUS_NATS_SYSTEM_PASSWORD": SYSTEM_PASSWORD,
        }

    def start(self) -> None:
        """Start all nodes and wait until JetStream has a leader that sees all of them."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            node.start()
        self.wait_whole()

    def kill(self) -> None:
        """SIGKILL to every node."""
        for node in self.nodes:
            node.kill()

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def wait_whole(self) -> None:
        """Until every node runs, is in the group that leads JetStream, and every stream's copies are current."""
        until(self._whole, READY_S_MAX, lambda: f"the cluster is not whole: {[n.running for n in self.nodes]}")

    def stream_leader(self, stream: str = STREAM) -> Node:
        """The node that leads a stream, once all who run agree on one that runs."""
        found: list[Node] = []

        def agreed() -> bool:
            named = {self._leader_by(node, stream) for node in self.nodes if node.running}
            if len(named) != 1:
                return False
            name = named.pop() or (self.nodes[0].name if len(self.nodes) == 1 else None)
            found[:] = [node for node in self.nodes if node.name == name and node.running]
            return bool(found)

        until(agreed, READY_S_MAX, lambda: f"nobody leads the stream {stream}")
        return found[0]

    def _leader_by(self, node: Node, stream: str) -> str | None:
        for details in self._streams(node):
            if details["name"] == stream:
                leader: str | None = details.get("cluster", {}).get("leader")
                return leader
        return None

    def _streams(self, node: Node) -> list[dict[str, Any]]:
        page = node.monitor("/jsz?accounts=true&streams=true")
        return [stream for account in page.get("account_details", []) for stream in account.get("stream_detail", [])]

    def _whole(self) -> bool:
        running = [node for node in self.nodes if node.running]
        if len(running) < len(self.nodes):
            return False
        if len(self.nodes) == 1:
            return True  # it has no peers, and leads what it holds
        for node in running:
            meta = node.monitor("/jsz").get("meta_cluster", {})
            if meta.get("cluster_size") != len(self.nodes) or not meta.get("leader"):
                return False
            peers = meta.get("replicas", [])
            if meta["leader"] == node.name and any(not peer["current"] or peer.get("offline") for peer in peers):
                return False
            for stream in self._streams(node):
                group = stream.get("cluster", {})
                if not group.get("leader"):
                    return False
                if group["leader"] == node.name and any(not peer["current"] for peer in group.get("replicas", [])):
                    return False
        return True

    def _configuration(self, node: Node) -> str:
        routes = ", ".join(f'"nats://127.0.0.1:{peer.route_port}"' for peer in self.nodes)
        cluster = f'cluster {{ name: hive, host: "127.0.0.1", port: {node.route_port}, routes: [{routes}] }}'
        return single(
            node,
            sync_interval=self._sync_interval,
            extra=f"{cluster if len(self.nodes) > 1 else ''}\n{self._extra}",
            tls=self._tls,
        )


def single(
    node: Node,
    *,
    sync_interval: str = "always",
    jetstream: bool = True,
    users: str | None = None,
    extra: str = "",
    tls: str = "",
) -> str:
    """A configuration with two accounts. `users` replaces those of the account HIVE."""
    store = f"jetstream {{ store_dir: {json.dumps(str(node.store))}, sync_interval: {sync_interval} }}"
    users = users or f'{{ user: "{USER}", password: "{PASSWORD}" }}'
    return f"""\
host: "127.0.0.1"
port: {node.port}
server_name: {node.name}
http: "127.0.0.1:{node.monitor_port}"
{store if jetstream else ""}
system_account: SYS
accounts {{
  HIVE: {{ {"jetstream: enabled," if jetstream else ""} users: [ {users} ] }}
  SYS: {{ users: [ {{ user: "{SYSTEM_USER}", password: "{SYSTEM_PASSWORD}" }} ] }}
}}
{f"tls {{ {tls} }}" if tls else ""}
{extra}
"""


def until(holds: Callable[[], bool], within_s: float, sentence: Callable[[], str]) -> None:
    """Wait for a condition, or raise RuntimeError with the sentence."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(sentence())
        time.sleep(POLL_S)


def free_port() -> int:
    """A port that nobody has now, below those that the kernel gives to others: a node finds it free at a restart."""
    for _ in range(1000):
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port was found")
