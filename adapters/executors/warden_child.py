"""The warden's own process: it outlives the program by a moment, and takes every task's processes with it.

Started by path with the standard library alone. Lines come in on stdin: `+TOKEN PGID` and `-TOKEN`. At the end of file,
which is the program's death in whatever way, every group still held is killed; then every process whose environment
carries the marker in argv[1], because a task may have put a process into a session of its own.
"""

import os
import signal
import sys
from collections.abc import Iterator


def marked(marker: bytes) -> Iterator[int]:
    """Pids, other than this one's, whose environment holds an entry that starts with `marker` (Linux: /proc)."""
    needle = b"\0" + marker
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb", buffering=0) as environ:
                found = needle in b"\0" + environ.read(1 << 20)
        except OSError:
            continue  # gone, or another user's: not ours
        if found:
            yield int(name)


def kill_group(pgid: int) -> None:
    """SIGKILL to a group that may be gone. macOS answers EPERM for a group of zombies."""
    try:
        os.killpg(pgid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def main() -> None:
    """Hold the groups until the pipe ends, then kill them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: dict[bytes, int] = {}
    for line in sys.stdin.buffer:
        if line[:1] == b"+":
            token, pgid = line[1:].split()
            groups[token] = int(pgid)
        else:
            groups.pop(line[1:].strip(), None)
    for pgid in groups.values():
        kill_group(pgid)
    if sys.platform == "linux":
        for pid in marked(os.fsencode(sys.argv[1])):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


if __name__ == "__main__":
    main()
