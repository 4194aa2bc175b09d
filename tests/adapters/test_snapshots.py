from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from adapters.snapshots import FileSnapshots

MANY = 10
BYTES = 4_000_000
WRITER = """
import asyncio, sys
from pathlib import Path
from adapters.snapshots import FileSnapshots

async def main():
    for _ in range(int(sys.argv[2])):
        await FileSnapshots(Path(sys.argv[1])).save(b"theirs" * int(sys.argv[3]))

asyncio.run(main())
"""


def test_two_processes_that_keep_the_same_image_never_mix_theirs(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.image"
    snapshots = FileSnapshots(path)
    ours, theirs = b"ours!!" * BYTES, b"theirs" * BYTES
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(MANY), str(BYTES)])
    try:
        while writer.poll() is None:
            asyncio.run(snapshots.save(ours))
            assert asyncio.run(snapshots.load()) in (ours, theirs)
        assert writer.returncode == 0
    finally:
        writer.kill()
        writer.wait()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_a_killed_process_left_of_an_image_goes_at_the_next_start(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    living, dead, foreign = (tmp_path / f"scheduler.{who}.new" for who in (os.getpid(), child.pid, "copy"))
    for file in (living, dead, foreign):
        file.write_bytes(b"half")

    assert asyncio.run(FileSnapshots(tmp_path / "scheduler.image").load()) is None

    assert (living.exists(), dead.exists(), foreign.exists()) == (True, False, True)
