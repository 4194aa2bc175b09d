"""`hivebus up`: one process, a broker as its child, started when all is ready and ended without losing a request."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

import orjson
import uvloop

from adapters.data_format import prepare, refuse_another
from adapters.disk import refuse_exhausted
from adapters.jetstream.broker import Broker
from adapters.jetstream.joined import JoinedServer
from adapters.jetstream.server import EmbeddedServer
from core.kernel.errors import StartRefused
from core.kernel.subjects import CLIENT_INBOX
from entrypoints import settings as settings_module
from entrypoints.broker import chosen_broker
from entrypoints.database import address_of
from entrypoints.lock import DataDirectory
from entrypoints.paths import connection_file, write_private
from entrypoints.process import begin_log, end, explain, tune
from entrypoints.roles import AGENTS, API, BROKER, RECORDER, SCHEDULER
from entrypoints.settings import Settings

if TYPE_CHECKING:
    import socket

    from entrypoints.bootstrap.program import Program
    from entrypoints.http.listener import Listener

logger = logging.getLogger("hivebus")

BROKER_RESTARTS_MAX = 5
BROKER_CALM_S = 60.0
BROKER_STOP_S = 3.0
BROKER_SILENT_S = 3.0
# Three of these in a minute are fewer deaths than end the program.
BROKER_REVIVE_S = 20.0
DISK_STEP_S = 1.0
READY_S_MAX = 60.0
DRAIN_MARGIN_S = 1.0
RECORD_S = 1.0
VIEWS_STEP_S = 2.0
RECORDER_STEP_S = 0.25


def serve() -> int:
    """Run until SIGTERM or SIGINT; the exit code. Every reason not to start is one sentence and a remedy on stderr."""
    started = time.monotonic()
    tune()
    directory: DataDirectory | None = None
    try:
        settings = settings_module.load()
        begin_log(settings.log_level)
        roles = settings.role_set
        if roles == {AGENTS}:
            served: int = importlib.import_module("entrypoints.agent_host").serve()
            return served
        refuse_exhausted(settings.data_dir)
        address_of(settings)  # refused before anything starts
        directory = DataDirectory(settings.data_dir)
        program, root = version_of("hivebus"), settings.data_dir
        directory.join(
            roles & ({RECORDER, AGENTS} if settings.nats_url else {RECORDER, SCHEDULER, AGENTS}),
            alone=lambda: prepare(root, program),
            beside=lambda: refuse_another(root, program),
        )
        # The executors' children find the same data directory, whatever their working directory is.
        os.environ["HIVEBUS_DATA_DIR"] = str(settings.data_dir.absolute())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Life(settings, directory, _broker(settings, directory), started).run())
    except StartRefused as refusal:
        return explain(refusal)
    finally:
        if directory is not None:
            directory.release()


class _Life:
    """One run of the program."""

    def __init__(self, settings: Settings, directory: DataDirectory, broker: Broker, started: float) -> None:
        self._settings = settings
        self._directory = directory
        self._started = started
        self._stop = asyncio.Event()
        self._broker = broker
        self._listeners: list[Listener] = []
        self._lives: asyncio.Task[None] | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for signal_ in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_, self._stop.set)
        try:
            async with AsyncExitStack() as stack:
                bootstrap, sockets = await self._prepare(stack)
                async with self._directory.one_at_a_time():
                    program = await stack.enter_async_context(
                        bootstrap.joined(self._settings, self._broker, version_of("hivebus"), self._stop.is_set)
                    )
                await self._live(program, sockets)
        except (BaseExceptionGroup, Exception) as error:
            return 0 if _was_stopped(error) else explain(error)
        return 0

    async def _prepare(self, stack: AsyncExitStack) -> tuple[Any, list[socket.socket]]:
        """Start the broker while the rest of the program is imported: together they are most of a start."""
        imported = asyncio.create_task(asyncio.to_thread(importlib.import_module, "entrypoints.bootstrap.program"))
        stack.push_async_callback(self._stop_broker)
        chosen = self._settings
        try:
            await self._broker.start()
        except StartRefused:
            await imported
            if chosen.nats_port:
                # If somebody else has its port, this refusal says who; the broker's own words do not.
                _bind("127.0.0.1", chosen.nats_port, "HIVEBUS_NATS_PORT").close()
            raise
        bootstrap = await imported
        sockets = []
        served = ("api_port", "ui_port", "tools_port") if API in chosen.role_set else ()
        for name in (*served, "metrics_port"):
            sock = _bind(chosen.bind, getattr(chosen, name), f"HIVEBUS_{name.upper()}")
            stack.callback(sock.close)
            sockets.append(sock)
        return bootstrap, sockets

    async def _live(self, program: Program, sockets: list[socket.socket]) -> None:
        from entrypoints.bootstrap.apps import api_app, metrics_app, tools_app, ui_app  # noqa: PLC0415
        from entrypoints.http.listener import Listener  # noqa: PLC0415 - imported by bootstrap already

        apps = [make(program) for make in (api_app, ui_app, tools_app)] if API in program.roles else []
        apps.append(metrics_app(program, first=not apps))
        program.vitals.broker_pid = self._broker_pid
        program.vitals.attempts = lambda: None if program.host is None else program.host.running
        self._listeners = [Listener(app, sock) for app, sock in zip(apps, sockets, strict=True)]
        async with asyncio.TaskGroup() as group:
            services = [group.create_task(service) for service in program.services()]
            services.append(group.create_task(self._watch_broker(program)))
            if not self._settings.nats_url and not isinstance(self._broker, JoinedServer):
                services.append(group.create_task(self._revive_broker(program)))
            lives = [group.create_task(program.host.live())] if program.host is not None else []
            if await self._until_ready(program):
                self._announce(program)
                await self._stop.wait()
                await self._drain(program, lives)
            await program.scheduler.save()
            await end([*services, *lives])

    async def _until_ready(self, program: Program) -> bool:
        """Prepare the listeners, wait for leader, host and views, then answer; False if a signal came first."""
        for listener in self._listeners:
            await listener.prepare()
        if not await self._recorder_here(program):
            if self._stop.is_set():
                return False
            raise StartRefused(
                f"Nobody records in the data directory {self._settings.data_dir}.",
                remedy="Store and views are SQLite files: start a process with the role recorder on this machine and "
                "this directory.",
            )
        deadline = time.monotonic() + READY_S_MAX
        while self._not_standing(program):
            if self._stop.is_set():
                return False
            if time.monotonic() > deadline:
                raise StartRefused("No scheduler led within a minute.", remedy="Look at the log lines above.")
            await asyncio.sleep(0.005)
        head = await program.log.head()
        # What was acknowledged before the start is visible after it, however long views that are folded anew take.
        while not await program.applied.wait_for(head, VIEWS_STEP_S):
            logger.info(
                "The views stand at %d of %d; the program answers when they are there.", program.applied.position, head
            )
            if self._stop.is_set():
                return False
        gc.collect()
        gc.freeze()
        for listener in self._listeners:
            await listener.serve()
        if API in program.roles:
            await program.commands.serve()
        return True

    async def _recorder_here(self, program: Program) -> bool:
        """Whether store and views are written on this machine; False after a minute, or when a signal came."""
        deadline = time.monotonic() + READY_S_MAX
        while not (program.shared or RECORDER in program.roles or self._directory.has(RECORDER)):
            if self._stop.is_set() or time.monotonic() > deadline:
                return False
            await asyncio.sleep(RECORDER_STEP_S)
        return True

    def _not_standing(self, program: Program) -> bool:
        """Whether a part of this process has not begun; where others share the work, it need not wait for them."""
        if program.host is not None and not program.host.registered:
            return True
        alone = SCHEDULER in program.roles and not self._settings.nats_url
        return not program.scheduler.leading if alone else not program.scheduler.folding

    async def _drain(self, program: Program, lives: list[asyncio.Task[None]]) -> None:
        """Readiness red, listeners closed, requests and attempts finished, all within the grace."""
        program.vitals.draining = True
        logger.info("Stopping within %.0f s: requests are answered, attempts interrupted.", self._settings.grace_s)
        if API in program.roles:
            connection_file(self._settings.data_dir).unlink(missing_ok=True)
        # What is about to stop must not be given what it gives back.
        program.scheduler.resign()
        for life in lives:
            life.cancel()
        grace_s = self._settings.grace_s
        left_s = grace_s - DRAIN_MARGIN_S
        # Their clients come back to another replica, or to the next start: before the listeners end they know.
        cut = await program.sockets.drain() if API in program.roles else 0
        served = [program.commands.drain(left_s)] if API in program.roles else []
        drained = asyncio.gather(*served, *(listener.drain(left_s) for listener in self._listeners))
        try:
            async with asyncio.timeout(grace_s):
                if program.host is not None:
                    await program.host.drain(grace_s / 2)
        except TimeoutError:
            logger.warning("Attempts did not end within the grace; the next start queues their tasks again.")
        cut += sum(await drained)
        # What was accepted to the last moment shall be in the store too: whoever copies it now has everything.
        if RECORDER in program.roles and program.recording.held:
            await program.recorded.wait_for(max(program.bus.newest, program.scheduler.fleet.position), RECORD_S)
        logger.info("Stopped; %d connections or commands had to be cut.", cut)

    # --- the broker ---

    async def _watch_broker(self, program: Program) -> None:
        """Start the broker again when it dies, on its port; too often is an error that ends the program."""
        deaths: list[float] = []
        while True:
            code = await self._broker.wait()
            deaths = [death for death in deaths if time.monotonic() - death < BROKER_CALM_S] + [time.monotonic()]
            if len(deaths) > BROKER_RESTARTS_MAX:
                raise StartRefused(
                    f"The broker ended {len(deaths)} times within a minute.",
                    remedy=f"Read {self._settings.data_dir / 'broker' / 'nats-server.log'}.",
                )
            logger.error("The broker ended with code %d; it is started again.", code)
            self._broker = self._broker.again()
            # It writes its configuration before it starts.
            await program.disk.until_writable()
            await self._broker.start()

    async def _revive_broker(self, program: Program) -> None:
        """Start a broker again that answers and stores nothing: after a failed write nats-server never tries again."""
        while True:
            await asyncio.sleep(DISK_STEP_S)
            if program.log.silent_s < BROKER_SILENT_S or not await program.log.healthy():
                continue
            await program.disk.until_writable()
            logger.error("The broker answers and takes no append: its disk was full, or failed. It is started again.")
            # Its end is all that is needed here: whoever watches it starts the next one.
            await self._broker.stop(grace_s=BROKER_STOP_S)
            await asyncio.sleep(BROKER_REVIVE_S)

    def _broker_pid(self) -> int | None:
        # Another one after each restart.
        return self._broker.pid if isinstance(self._broker, EmbeddedServer) else None

    async def _stop_broker(self) -> None:
        await self._broker.stop(grace_s=BROKER_STOP_S)

    # --- words ---

    def _announce(self, program: Program) -> None:
        """connection.json for the command line, and the first lines that a user sees."""
        if API not in program.roles:
            print(f"This process runs: {self._settings.roles}.\n  data       {self._settings.data_dir}", flush=True)
            return
        api, ui, tools, metrics = (
            f"http://{_shown(self._settings.bind)}:{listener.port}" for listener in self._listeners
        )
        path = connection_file(self._settings.data_dir)
        content = {"url": api, "ui_url": ui, "tools_url": tools, "metrics_url": metrics, "pid": os.getpid()}
        content |= {"nats_url": self._broker.access.urls[0], "nats_inbox_prefix": CLIENT_INBOX}
        client = self._broker.client_access
        if client is not None:
            content |= {"nats_user": client.user, "nats_password": client.password}
        write_private(path, orjson.dumps(content).decode())
        warning = (
            "  profile    fast: a power cut may lose the last second\n" if self._settings.profile == "fast" else ""
        )
        print(
            f"Hivebus is ready after {time.monotonic() - self._started:.2f} s.\n"
            f"  page       {ui}/?ticket={program.door.ticket()}  (this link works once)\n"
            f"  API        {api}\n"
            f"  tools      {tools}  (documents at /docs, MCP at /mcp; every query and the events)\n"
            f"  metrics    {metrics}/metrics\n"
            f"  NATS       {self._broker.access.shown}  (`hivebus env` prints what clients need)\n"
            f"  data       {self._settings.data_dir}\n"
            f"{warning}"
            "Submit work from another shell:  hivebus task submit --type hello --wait -- echo hello",
            flush=True,
        )


def _broker(settings: Settings, directory: DataDirectory) -> Broker:
    """The one of the settings; of several processes on one data directory the first starts the embedded one."""
    chosen = chosen_broker(settings)
    return chosen if settings.nats_url or directory.win(BROKER) else JoinedServer(settings.data_dir)


def _bind(address: str, port: int, setting: str) -> socket.socket:
    from entrypoints.http.listener import bind  # noqa: PLC0415 - imported by bootstrap already

    return bind(address, port, setting)


def _shown(address: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, address)  # noqa: S104 - only shown


def _was_stopped(error: BaseException) -> bool:
    """Whether a signal came while views were rebuilt: that ends a start as it would end a run."""
    rebuild = sys.modules.get("adapters.sql.rebuild")
    return rebuild is not None and isinstance(error, rebuild.Stopped)
