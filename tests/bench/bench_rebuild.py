"""Rebuild of 100,000 events beside the catch-up of the `eventsourcing` library: `python -m tests.bench.bench_rebuild`.

One view is `queue`, which the library's projection builds too (ours keeps every version of every row, its checksum, and
its index). All core views are the five of the program. The store is on the disk, the new views are synced before they
count, and the best of three rounds on each side of the library's one run is taken for both figures alike.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from adapters.sql.rebuild import rebuild
from adapters.sql.store import SqlStore
from core.projection import View
from entrypoints.process import tune
from projections.catalogue import VIEWS
from tests.bench.bench_recorder import recorded
from tests.bench.eventsourcing_peer import measured
from tests.bench.fleet import CODEC, history

EVENTS = 100_000
REACH = {"one_view": 60, "core_views": 10}


async def make_store(root: Path, events: int) -> int:
    """A store that holds at least so many events; how many commits they are."""
    held = history(events)
    store = await SqlStore.open(root / "store.db")
    await recorded(held, store)
    await store.close()
    return len(held)


def seconds(root: Path, views: list[View]) -> float:
    """Seconds of a rebuild of these views, from nothing."""
    for path in root.glob("views.db*"):
        path.unlink()
    return rebuild(root, views, CODEC, [view.name for view in views], progress=lambda position, end: None).seconds


def main(*, fast: bool) -> dict[str, object]:
    events = EVENTS // 5 if fast else EVENTS
    tune()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        commits = asyncio.run(make_store(root, events))
        print(f"  {events:,} events in {commits:,} commits", file=sys.stderr)
        ways = {view.name: [view] for view in VIEWS} | {"core_views": list(VIEWS)}
        rounds = [{name: seconds(root, views) for name, views in ways.items()} for _ in range(2)]
        peer = measured(events)
        rounds.append({name: seconds(root, views) for name, views in ways.items()})
    rates = {name: events / min(round_[name] for round_ in rounds) for name in ways}
    catch_up = peer["catch_up_per_s"]
    print(f"  {'eventsourcing, catch-up of one view':<40}{catch_up:>12,.0f} events/s", file=sys.stderr)
    for name, rate in rates.items():
        print(f"  {'rebuild of ' + name:<40}{rate:>12,.0f} events/s   {rate / catch_up:6.1f} x", file=sys.stderr)
    return {
        "events": events,
        "eventsourcing_per_s": round(catch_up),
        **{f"{name}_per_s": round(rate) for name, rate in rates.items()},
        "one_view_ratio": round(rates["queue"] / catch_up, 1),
        "core_views_ratio": round(rates["core_views"] / catch_up, 1),
        "reach": REACH,
    }


if __name__ == "__main__":
    print(json.dumps({"rebuild": main(fast="--fast" in sys.argv)}))
