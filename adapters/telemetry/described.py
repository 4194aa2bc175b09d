"""What a metric is, in words: for the exposition and for docs/reference/metrics.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


class Kind(StrEnum):
    """Prometheus' own words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Described(Struct, frozen=True):
    """Name with its unit, kind, a sentence, and the labels, whose values come from closed sets."""

    name: str
    kind: Kind
    doc: str
    labels: tuple[str, ...] = ()


class Reading(Struct, frozen=True):
    """What is measured when somebody looks, or counted elsewhere; with a label, one value for each value of it."""

    name: str
    doc: str
    label: str | None = None
    kind: Kind = Kind.GAUGE

    @property
    def described(self) -> Described:
        """As all metrics are described."""
        return Described(self.name, self.kind, self.doc, (self.label,) if self.label else ())


class Measured:
    """The readings of one scrape. What could not be measured is not in it, and so not exposed."""

    def __init__(self) -> None:
        self._families: list[Metric] = []

    def put(self, reading: Reading, value: float | Mapping[str, float] | None) -> None:
        """A value, or one for each value of the label; None is unknown."""
        if value is None:
            return
        make = CounterMetricFamily if reading.kind is Kind.COUNTER else GaugeMetricFamily
        family = make(reading.name, reading.doc, labels=[reading.label] if reading.label else [])
        for name, number in value.items() if isinstance(value, Mapping) else [("", value)]:
            family.add_metric([name] if reading.label else [], number)
        self._families.append(family)

    def collect(self) -> Iterable[Metric]:
        """The families, for prometheus-client."""
        return self._families
