"""A real Postgres of its own: made in a temporary folder, on loopback, ended with whoever made it.

No pytest here, so that acceptance scripts can use it too.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import psutil

from tests.tools import POSTGRES, postgres_programs

USER = "postgres"
PASSWORD = "of the tests"
START_S_MAX = 30.0
STEP_S = 0.02

# The database's disk is not what is tested; whoever kills it with -9 kills a process, not a machine.
_SETTINGS = {
    "fsync": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
}


class NoPostgres(RuntimeError):
    """The programs of Postgres are not installed."""


class PostgresCluster:
    """initdb, start, stop, kill and start again. As a context manager it runs inside and leaves nothing behind."""

    def __init__(self, *, durable: bool = False) -> None:
        """`durable` keeps fsync, for those who measure."""
        programs = postgres_programs()
        if programs is None:
            raise NoPostgres(f"postgres is missing: apt-get update && apt-get install -y {POSTGRES}")
        self._programs = programs
        self._settings = _SETTINGS | ({"fsync": "on"} if durable else {})
        self._folder = Path(tempfile.mkdtemp(prefix="hivebus-postgres-"))
        # initdb and postgres refuse to be root.
        self._owner = pwd.getpwnam(USER) if os.geteuid() == 0 else None
        if self._owner is not None:
            os.chown(self._folder, self._owner.pw_uid, self._owner.pw_gid)
        self.port = _free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self._initdb()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The superuser's address of the database `postgres`, as HIVEBUS_DATABASE_URL takes it."""
        return self.url_of(USER, PASSWORD)

    def url_of(self, user: str, password: str, database: str = "postgres") -> str:
        """The address of another user or database."""
        return f"postgresql://{user}:{password.replace(' ', '%20')}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """The server's own process, the one that others start from."""
        assert self._server is not None, "it does not run"
        return self._server.pid

    def start(self) -> Self:
        """Start on the same port, and return once it takes connections."""
        arguments = [f"-c{name}={value}" for name, value in self._settings.items()]
        command = [self._programs / "postgres", "-D", self._data, "-p", str(self.port), *arguments]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, **self._as_owner())
        deadline = time.monotonic() + START_S_MAX
        while self.execute("SELECT 1", check=False).returncode != 0:
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Postgres did not start:\n{(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(STEP_S)
        return self

    def stop(self) -> None:
        """A fast shutdown: sessions are ended, everything is written."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL for the server and all its sessions at once, as a machine that is gone."""
        assert self._server is not None
        children = _children(self._server.pid)
        # Stopped first, so that it starts nobody and tidies nothing while its children die.
        self._server.send_signal(signal.SIGSTOP)
        children += _children(self._server.pid)
        for pid in children:
            _signal(pid, signal.SIGKILL)
        self._end(signal.SIGKILL)
        # A child that is not quite gone holds the shared memory, and the next start would refuse.
        deadline = time.monotonic() + START_S_MAX
        while any(map(_lives, children)) and time.monotonic() < deadline:
            time.sleep(STEP_S)

    def restart(self) -> Self:
        """End it if it runs, and start it again on the same data."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """Stop, and remove everything."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def execute(self, sql: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run SQL by psql as the superuser; what it printed, tuples only."""
        command = [self._programs / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.url, "-c", sql]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=START_S_MAX)
        if check and done.returncode != 0:
            raise RuntimeError(f"{sql}: {done.stderr}")
        return done

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _initdb(self) -> None:
        secret = self._folder / "password"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o644)
        command = [self._programs / "initdb", "-D", self._data, "-U", USER, f"--pwfile={secret}", "-A", "scram-sha-256"]
        command += ["-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder, **self._as_owner())

    def _as_owner(self) -> dict[str, object]:
        if self._owner is None:
            return {"start_new_session": True}
        owner = {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}
        return {"start_new_session": True, **owner}

    def _end(self, how: signal.Signals) -> None:
        if self._server is None or self._server.poll() is not None:
            return
        self._server.send_signal(how)
        try:
            self._server.wait(START_S_MAX)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
