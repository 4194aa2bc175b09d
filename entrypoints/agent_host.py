"""`hivebus agent-host`: a process that runs agents for a bus elsewhere. It holds a lease, and no database."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import AsyncExitStack

import uvloop

from core.kernel.errors import StartRefused
from core.services.agent_host import AgentHost
from entrypoints import settings as settings_module
from entrypoints.bootstrap import agents
from entrypoints.lock import DataDirectory
from entrypoints.process import begin_log, end, explain, tune
from entrypoints.settings import Settings

logger = logging.getLogger("hivebus.host")


def serve() -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    tune()
    directory: DataDirectory | None = None
    try:
        settings = settings_module.load()
        begin_log(settings.log_level)
        place = agents.place_of(settings)
        directory = DataDirectory(place.root)
        directory.take()
        # Nothing of the server's is for the programs of tasks: neither its directory nor its key.
        os.environ["HIVEBUS_DATA_DIR"] = str(place.root.absolute())
        os.environ.pop(agents.KEY_VARIABLE, None)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(settings, place))
    except StartRefused as refusal:
        return explain(refusal)
    finally:
        if directory is not None:
            directory.release()


async def _run(settings: Settings, place: agents.Place) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_, stop.set)
    try:
        async with AsyncExitStack() as stack:
            host = await stack.enter_async_context(agents.joined(settings, place))
            metrics = await _listen(stack, settings, host, stop)
            async with asyncio.TaskGroup() as group:
                lives = group.create_task(host.live())
                announced = group.create_task(_announce(settings, place, host, metrics))
                await stop.wait()
                await _drain(settings, host, lives)
                await end([lives, announced])
    except (BaseExceptionGroup, Exception) as error:
        return explain(error)
    return 0


async def _listen(stack: AsyncExitStack, settings: Settings, host: AgentHost, stop: asyncio.Event) -> str | None:
    """Health and metrics, where their port is set; the address."""
    if "metrics_port" not in settings.model_fields_set:
        return None
    # Nobody else pays for the listener's imports.
    from entrypoints.bootstrap.host_listener import listening  # noqa: PLC0415

    return await stack.enter_async_context(listening(settings, host, stop.is_set))


async def _announce(settings: Settings, place: agents.Place, host: AgentHost, metrics: str | None) -> None:
    await host.began.wait()
    print(
        f"This host runs agents now: {agents.host_name(settings)}, {settings.slots} attempts at once.\n"
        f"  broker     {place.broker.shown}\n"
        + (f"  metrics    {metrics}/metrics\n" if metrics else "")
        + f"  data       {place.root}",
        flush=True,
    )


async def _drain(settings: Settings, host: AgentHost, lives: asyncio.Task[None]) -> None:
    """Interrupt what runs and leave: its tasks are queued again at once, for other hosts."""
    logger.info("Stopping within %.0f s: attempts are interrupted, their tasks queued again.", settings.grace_s)
    lives.cancel()
    try:
        async with asyncio.timeout(settings.grace_s):
            await host.drain(settings.grace_s / 2)
    except TimeoutError:
        logger.warning("Attempts did not end within the grace; their tasks go back when the lease ends.")
