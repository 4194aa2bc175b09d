"""Random frames to the JSON-RPC engine of the real program: each is answered in time, nothing breaks, memory stays.

Memory is that of the program's own process, without the broker's. A third of the frames goes ahead, uncounted: what a
program keeps for good (compiled statements, pages of its databases, the room for a frame of 1 MiB) it should have then.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from websockets.exceptions import ConnectionClosed

from tests.accept.program import Program
from tests.accept.script import Figures, Options, expect, main, note
from tests.entrypoints.frames import FRAME_BYTES_MAX, frames
from tests.entrypoints.jsonrpc import OverWebSocket, outline

# A call that waits for an event does so for 25 s at most; nothing else comes near.
ANSWER_S_MAX = 30.0
GROWTH_MAX = 1.05
DRAWN = 500

Send = Callable[[bytes], str | list[str]]


def run(options: Options) -> Figures:
    """The same frames on every way to the engine, each on a program of its own."""
    count = options.count(10_000, 2_000)
    figures: Figures = {"frames": count, "warm_up_frames": count // 3}
    for way, connect in WAYS.items():
        with tempfile.TemporaryDirectory() as folder, Program(Path(folder) / "data") as program:
            figures[way] = _sent(program, connect(program), options.seed, count)
            said = program.log.read_text()
        expect("Traceback" not in said, f"{way}: something broke: {said[-3000:]}")
    return figures


def _sent(program: Program, send: Send, seed: int, count: int) -> Figures:
    process = psutil.Process(program.pid)
    outcomes: Counter[str] = Counter()
    slowest_s, rss, third = 0.0, [], count // 3
    # Drawn a part at a time: all of them at once would weigh more than the program.
    drawn = itertools.chain.from_iterable(frames(seed + part, DRAWN) for part in itertools.count())
    for number, frame in enumerate(itertools.islice(drawn, third + count), 1 - third):
        began = time.monotonic()
        outcome = send(frame)
        took_s = time.monotonic() - began
        expect(took_s < ANSWER_S_MAX, f"frame {number} took {took_s:.1f} s: {frame[:200]!r}")
        slowest_s = max(slowest_s, took_s)
        outcomes.update([outcome] if isinstance(outcome, str) else outcome)
        expect(not outcomes["internal"], f"frame {number} broke something: {frame[:500]!r}")
        if number > 0 and number % third == 0:
            rss.append(process.memory_info().rss)
            note(f"{number} frames: {rss[-1] / 2**20:.1f} MiB")
    growth = rss[2] / rss[0]
    expect(growth <= GROWTH_MAX, f"memory grew to {growth:.3f} of what it was after the first third")
    return {
        "outcomes": dict(outcomes.most_common()),
        "slowest_ms": round(slowest_s * 1000),
        "rss_mib": [round(size / 2**20, 1) for size in rss],
        "growth": round(growth, 3),
    }


def _outcome(answer: Any) -> str | list[str]:
    """What became of a frame: `nothing`, `result`, or the code of its error; of each for a batch."""
    if isinstance(answer, list):
        return [str(_outcome(item)) for item in answer]
    if answer is None:
        return "nothing"
    return "result" if len(answer) == 2 else str(answer[2])


def _http(program: Program) -> Send:
    client = program.client()

    def send(frame: bytes) -> str | list[str]:
        answer = client.request("POST", "/api/", frame)
        if answer.status in (200, 204):
            return _outcome(outline(answer.raw or None))
        expect(400 <= answer.status < 500, f"{answer.status} for {frame[:500]!r}: {answer.raw[:500]!r}")
        return str(answer.json["code"])

    return send


def _websocket(program: Program) -> Send:
    ask = OverWebSocket(program.connection["ui_url"], program.key, timeout_s=ANSWER_S_MAX)

    def send(frame: bytes) -> str | list[str]:
        try:
            return _outcome(outline(ask(frame)))
        except ConnectionClosed as closed:
            # RFC 6455: 1009 is what a message beyond the bound gets; nothing else is a reason to close.
            code = closed.rcvd.code if closed.rcvd else None
            expect(code == 1009 and len(frame) > FRAME_BYTES_MAX, f"closed with {code} after {frame[:500]!r}")
            return "closed 1009"

    return send


WAYS: dict[str, Callable[[Program], Send]] = {"http": _http, "websocket": _websocket}


if __name__ == "__main__":
    main("random-frames", run)
