"""One call through lost connections and busy servers: sent again where that is safe, and never where it is not."""

from __future__ import annotations

import asyncio
from typing import Any

from core.kernel.errors import HivebusError, OutcomeUnknown
from entrypoints.client.connection import Lost
from entrypoints.client.connector import Connector, Pauses
from entrypoints.client.problems import Unreachable

# What a server says that may be able to do it in a moment.
BUSY = frozenset({429, 502, 503, 504})


async def ask(connector: Connector, method: str, params: dict[str, Any], *, repeatable: bool) -> Any:
    """The result of a method. `repeatable`: it changes nothing, or the server knows a repeat by its key.

    Raises HivebusError: the server's own, Unreachable when patience is over, OutcomeUnknown for a call that was sent,
    not answered, and may not be sent again.
    """
    clock = asyncio.get_running_loop().time
    until, pauses, was_lost = connector.deadline(), Pauses(), False
    while True:
        connection = await connector.connection(until)
        try:
            return await connection.request(method, params)
        except Lost as lost:
            await connector.lost(connection)
            if not repeatable:
                raise OutcomeUnknown(
                    f"The connection ended before {method} was answered: {lost}.",
                    remedy="Look whether it took place; a call with an idempotency_key is sent again by itself.",
                ) from lost
            if not was_lost:  # the patience is for the server's absence, not for the call's own time
                until, was_lost = connector.deadline(), True
            elif clock() > until:
                raise Unreachable(f"The connection ended again and again: {lost}.", remedy="Try later.") from lost
        except HivebusError as error:
            pause_s = error.retry_after_s if error.retry_after_s is not None else pauses.next()
            if not repeatable or error.status not in BUSY or clock() + pause_s > until:
                raise
            await asyncio.sleep(pause_s)
