"""Counters and histograms that cost a quarter of a microsecond, read by prometheus-client when it is scraped.

They belong to the event loop: nothing here is locked. prometheus-client's own take four times as long, and appends and
requests are counted on the hot path.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from adapters.telemetry.described import Described, Kind


class Tally(Collector):
    """A counter. Label values come from closed sets: each new combination stays for the life of the process."""

    def __init__(self, name: str, doc: str, labels: Sequence[str] = ()) -> None:
        self.described = Described(name, Kind.COUNTER, doc, tuple(labels))
        self._counts: dict[tuple[str, ...], int] = {} if labels else {(): 0}

    def add(self, *values: str, count: int = 1) -> None:
        """Count under these label values, in the order of the labels."""
        self._counts[values] = self._counts.get(values, 0) + count

    def collect(self) -> Iterable[CounterMetricFamily]:
        """The family as it stands."""
        family = CounterMetricFamily(self.described.name, self.described.doc, labels=self.described.labels)
        for values, count in list(self._counts.items()):
            family.add_metric(values, count)
        yield family


class Spread(Collector):
    """A histogram of seconds. `bounds` are upper bounds, growing; what lies beyond the last is counted beyond it."""

    def __init__(self, name: str, doc: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        self.described = Described(name, Kind.HISTOGRAM, doc, tuple(labels))
        self._bounds = tuple(bounds)
        self._series: dict[tuple[str, ...], _Series] = {} if labels else {(): _Series(len(self._bounds) + 1)}

    def observe(self, seconds: float, *values: str) -> None:
        """Take one measurement, under these label values."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = _Series(len(self._bounds) + 1)
        series.counts[bisect_left(self._bounds, seconds)] += 1
        series.sum_s += seconds

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The family as it stands."""
        family = HistogramMetricFamily(self.described.name, self.described.doc, labels=self.described.labels)
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, series in list(self._series.items()):
            reached = 0
            buckets = []
            for name, count in zip(names, series.counts, strict=True):
                reached += count
                buckets.append((name, float(reached)))
            family.add_metric(values, buckets, series.sum_s)
        yield family


class _Series:
    __slots__ = ("counts", "sum_s")

    def __init__(self, size: int) -> None:
        self.counts = [0] * size
        self.sum_s = 0.0
