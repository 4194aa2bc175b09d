"""Workspaces: a directory for each attempt, and what a crash of the program left in them.

<data_dir>/workspaces/<task_id>/<attempt>/          the program's working directory and HOME
<data_dir>/workspaces/<task_id>/<attempt>/.tmp/     its TMPDIR, never listed
<data_dir>/workspaces/<task_id>/<attempt>.running   pid, start time and `keep`, while it runs
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from adapters.executors.process_table import create_time, kill_marked
from adapters.executors.warden import WORKSPACE_VARIABLE
from adapters.executors.warden_child import kill_group
from core.execution import MIB, Attempt

log = logging.getLogger(__name__)

FILES_MAX = 100
WALK_MAX = 10_000
HASH_FILE_MAX_BYTES = 8 * MIB
HASH_TOTAL_MAX_BYTES = 32 * MIB
TEMPORARY = ".tmp"
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_SEGMENT = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


class Running(Struct, frozen=True):
    """Who runs in a workspace: enough to tell it from a later process with the same pid."""

    pid: int
    started: float
    keep: bool


class Swept(Struct, frozen=True):
    """What a start-time sweep found of an earlier program."""

    processes: int
    workspaces: int


class Workspaces:
    """The workspaces of one data directory. The program that sweeps must be the only agent host there."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.resolve()
        self._root = self._data_dir / "workspaces"

    def path(self, attempt: Attempt) -> Path:
        """Where an attempt works. ValueError for an id that is no plain name."""
        if not _SEGMENT.match(attempt.task_id):
            raise ValueError(f"{attempt.task_id!r} cannot name a directory")
        return self._root / attempt.task_id / str(attempt.attempt)

    def create(self, attempt: Attempt) -> Path:
        """Make the directory, empty, for this user alone."""
        workspace = self.path(attempt)
        if workspace.exists():
            _remove_tree(workspace)
        workspace.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        workspace.mkdir(mode=0o700)
        (workspace / TEMPORARY).mkdir()
        return workspace

    def environment(self, attempt: Attempt) -> dict[str, str]:
        """What every task's program finds in its environment; nothing else of the server's is passed on."""
        workspace = str(self.path(attempt))
        return {
            "PATH": _PATH,
            "HOME": workspace,
            "LANG": "C.UTF-8",
            "TMPDIR": f"{workspace}/{TEMPORARY}",
            "HIVEBUS_DATA_DIR": str(self._data_dir),
            "HIVEBUS_TASK_ID": attempt.task_id,
            "HIVEBUS_AGENT_ID": attempt.agent_id,
            "HIVEBUS_ATTEMPT": str(attempt.attempt),
            WORKSPACE_VARIABLE: workspace,
        }

    def mark(self, workspace: Path, pid: int, *, keep: bool) -> None:
        """Write down who runs there, for the sweep after a crash. Not synced: no process outlives the kernel."""
        started = create_time(pid)
        if started is not None:
            _mark_of(workspace).write_bytes(msgspec.json.encode(Running(pid, started, keep)))

    def close(self, workspace: Path, *, keep: bool) -> None:
        """The attempt is over: remove its workspace unless it is kept."""
        _mark_of(workspace).unlink(missing_ok=True)
        if keep:
            _remove_tree(workspace / TEMPORARY)
            return
        _remove_tree(workspace)
        try:
            workspace.parent.rmdir()
        except OSError as error:
            log.debug("%s stays: %s", workspace.parent, error)  # another attempt of the task is kept

    def sweep(self) -> Swept:
        """Kill what an earlier program left running and remove the workspaces it did not finish."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        killed = sum(_kill_left_over(mark) for mark in self._root.glob("*/*.running"))
        killed += kill_marked(WORKSPACE_VARIABLE, f"{self._root}/", exact=False)
        removed = 0
        for mark in list(self._root.glob("*/*.running")):
            running = _read_mark(mark)
            self.close(mark.with_suffix(""), keep=running is not None and running.keep)
            removed += 1
        if killed or removed:
            log.warning("swept %d workspaces and %d processes of an earlier program", removed, killed)
        return Swept(killed, removed)


def list_files(workspace: Path) -> dict[str, Any]:
    """{files: [{path, size, sha256?}], files_omitted}: what a program left behind, at most 100 in order of path.

    Small files carry their hash; a folder that cannot be read is passed over. Beyond 10,000 entries counting stops, and
    `files_omitted` is a lower bound.
    """
    files: list[dict[str, Any]] = []
    omitted = 0
    left = HASH_TOTAL_MAX_BYTES
    for count, path in enumerate(_walk(workspace)):
        if count >= WALK_MAX:
            break
        if len(files) == FILES_MAX:
            omitted += 1
            continue
        info = path.lstat()
        entry: dict[str, Any] = {"path": _printable(path.relative_to(workspace)), "size": info.st_size}
        if stat.S_ISREG(info.st_mode) and info.st_size <= min(left, HASH_FILE_MAX_BYTES):
            digest = _hash(path)
            if digest is not None:
                entry["sha256"] = digest
                left -= info.st_size
        files.append(entry)
    return {"files": files, "files_omitted": omitted}


def _walk(workspace: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(workspace):
        here = Path(folder)
        if here == workspace and TEMPORARY in folders:
            folders.remove(TEMPORARY)
        folders.sort()
        links = [name for name in folders if (here / name).is_symlink()]
        yield from (here / name for name in sorted(names + links))


def _printable(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "replace")


def _hash(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError:
        return None  # its mode says so; the size is known all the same


def _mark_of(workspace: Path) -> Path:
    return workspace.with_name(f"{workspace.name}.running")


def _read_mark(mark: Path) -> Running | None:
    try:
        return msgspec.json.decode(mark.read_bytes(), type=Running)
    except msgspec.MsgspecError as error:
        log.warning("%s is cut off, the process it named is searched by its environment: %s", mark, error)
        return None


def _kill_left_over(mark: Path) -> int:
    running = _read_mark(mark)
    if running is None:
        return 0
    if create_time(running.pid) != running.started:
        return 0  # gone, or the pid belongs to somebody else by now
    kill_group(running.pid)
    return 1


def _remove_tree(path: Path) -> None:
    """Remove a tree, also where a program took away its own permissions. What cannot go is logged, and stays."""
    if not path.exists():
        return
    try:
        shutil.rmtree(path)
    except OSError:
        _unlock(path)
        shutil.rmtree(path, onerror=_log_what_stays)


def _unlock(path: Path) -> None:
    path.chmod(0o700)
    for folder, folders, _ in os.walk(path):  # from the top: each folder is opened up before the walk enters it
        for name in folders:
            if not os.path.islink(os.path.join(folder, name)):
                os.chmod(os.path.join(folder, name), 0o700)


def _log_what_stays(_function: Callable[..., Any], name: str, error: Any) -> None:
    log.error("%s could not be removed: %s", name, error[1])
