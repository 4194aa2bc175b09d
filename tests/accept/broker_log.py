"""The broker of a program: its processes, its files, and what its log really holds."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import sqlite3
from pathlib import Path

import psutil

from adapters.jetstream.connection import connect
from adapters.jetstream.upkeep import JetStreamUpkeep
from core.kernel.merkle import leaf_hash
from tests.accept.program import Program
from tests.accept.script import expect


def broker_of(program: Program) -> psutil.Process:
    """The nats-server that the program started."""
    found = [child for child in psutil.Process(program.pid).children() if "nats-server" in child.name()]
    expect(len(found) == 1, f"{len(found)} brokers run")
    return found[0]


def replace_store(root: Path, copy: Path) -> None:
    """Put a copy in place of the broker's store."""
    shutil.rmtree(root / "nats")
    shutil.copytree(copy, root / "nats")


def replace_running(program: Program, copy: Path) -> None:
    """Kill the broker and put a copy in place of its store before the program can start it again."""
    broker = broker_of(program)
    own = psutil.Process(program.pid)
    own.send_signal(signal.SIGSTOP)
    try:
        broker.kill()
        # Its parent stands still and cannot bury it.
        psutil.wait_procs([broker], timeout=0.5)
        replace_store(program.root, copy)
    finally:
        own.send_signal(signal.SIGCONT)


def held(program: Program) -> dict[int, str]:
    """Every position that the running broker holds, with the leaf of what is there."""
    return asyncio.run(_held(program.root))


async def _held(root: Path) -> dict[int, str]:
    port = re.search(r"^port: (\d+)", (root / "broker" / "nats-server.conf").read_text(), re.MULTILINE)
    passwords = json.loads((root / "broker" / "passwords.json").read_text())
    assert port is not None
    url = f"nats://127.0.0.1:{port[1]}"
    client = await connect(url, user="hivebus", password=passwords["hivebus"], name="accept")
    upkeep = await JetStreamUpkeep.open(client, None)
    leaves: dict[int, str] = {}
    head = await upkeep.head()
    for start in range(1, head + 1, 500):
        span = range(start, min(head + 1, start + 500))
        for position, entry in zip(span, await asyncio.gather(*map(upkeep.entry, span)), strict=True):
            if entry is not None:
                leaves[position] = leaf_hash(position, entry.subject, entry.body).hex()
    upkeep.close()
    await client.close()
    return leaves


def recorded(program: Program) -> dict[int, str]:
    """Every position of the store with its leaf."""
    store = sqlite3.connect(f"file:{program.root / 'store.db'}?mode=ro", uri=True)
    try:
        return {position: leaf.hex() for position, leaf in store.execute("SELECT position, leaf FROM commits")}
    finally:
        store.close()
