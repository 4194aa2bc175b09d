"""The servers that peers need, each of its own, on loopback: nats-server from our wheel, Redis from apt."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

from adapters.jetstream.server import find_binary
from tests.bench.peers.processes import Process, free_port

START_S_MAX = 20.0
REDIS = "redis-server"


class Missing(RuntimeError):
    """A program that a peer needs is not installed."""


def redis_program() -> str | None:
    """Where redis-server is, if it is installed."""
    return shutil.which(REDIS)


def nats_server(folder: Path) -> tuple[Process, str]:
    """JetStream with an fsync each second, as our profile `fast` has it. The process and its address."""
    port = free_port()
    settings = folder / "nats.conf"
    settings.write_text(
        f'host: "127.0.0.1"\nport: {port}\njetstream {{ store_dir: "{folder / "nats"}", sync_interval: 1s }}\n'
    )
    process = Process([find_binary(), "-c", settings], folder / "nats.log", {})
    _wait(process, lambda: _answers(port, b"", b"INFO"))
    return process, f"nats://127.0.0.1:{port}"


def redis_server(folder: Path) -> tuple[Process, str]:
    """Redis with an append-only file that is fsynced each second. The process and its address."""
    program = redis_program()
    if program is None:
        raise Missing(f"{REDIS} is missing")
    port, data = free_port(), folder / "redis"
    data.mkdir()
    durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(data), *durable]
    process = Process(command, folder / "redis.log", {})
    _wait(process, lambda: _answers(port, b"PING\r\n", b"+PONG"))
    return process, f"redis://127.0.0.1:{port}"


def _wait(process: Process, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S_MAX
    while not ready():
        if not process.running or time.monotonic() > deadline:
            raise RuntimeError(f"it did not start:\n{process.log.read_text()[-2000:]}")
        time.sleep(0.02)


def _answers(port: int, question: bytes, answer: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(question)
            return connection.recv(64).startswith(answer)
    except OSError:
        return False
