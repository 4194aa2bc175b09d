"""What a task says of when it runs: a datagram to its driver. Both read the machine's one monotonic clock."""

from __future__ import annotations

import asyncio
import socket
import struct
import time

HOLD_S = 300.0
_STAMP = struct.Struct("!QQ")
_mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def tell(port: int, sent_ns: int) -> None:
    """Say that a task which was sent at `sent_ns` runs now."""
    _mouth.sendto(_STAMP.pack(sent_ns, time.monotonic_ns()), ("127.0.0.1", port))


async def stamp(port: int, sent_ns: int) -> None:
    """A task that says when it runs, and ends."""
    tell(port, sent_ns)


async def hold(port: int) -> None:
    """A task that says that it runs, and goes on for longer than anybody waits for it."""
    tell(port, 0)
    await asyncio.sleep(HOLD_S)


class Ear(asyncio.DatagramProtocol):
    """Where a driver hears its tasks: (sent_ns, ran_ns) in the order of their coming."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self.port = 0

    @classmethod
    async def open(cls) -> Ear:
        """Listen on a free port of loopback."""
        loop = asyncio.get_running_loop()
        transport, ear = await loop.create_datagram_endpoint(cls, local_addr=("127.0.0.1", 0))
        ear.port = transport.get_extra_info("sockname")[1]
        return ear

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.heard.put_nowait(_STAMP.unpack(data))
