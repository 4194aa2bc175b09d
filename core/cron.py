"""Cron expressions: five fields (minute, hour, day of month, month, day of week) on the wall clock of a time zone.

A field is `*`, a number, a range `a-b`, a list of these, each with a step `/n`; months and weekdays have names too;
Sunday is 0 and 7. Where day of month and day of week are both given, either of them is enough, as in every cron since
Vixie's. `@hourly`, `@daily` (`@midnight`), `@weekly`, `@monthly` and `@yearly` (`@annually`) stand for the usual ones.

A wall time that a day skips comes as much later as the clock jumps (02:30 at 03:30), so that a day's run is never left
out. One that comes twice counts the first time, and both times only where every hour is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

# From one 29 February to the next there are up to eight years.
LOOK_AHEAD_DAYS = 9 * 366
_DAY = timedelta(days=1)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_WORDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


class Cron(NamedTuple):
    """A parsed expression: which minutes, hours, days, months and weekdays (Sunday 0); days or weekdays as `either`."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    either: bool

    def has_day(self, day: date) -> bool:
        """Whether it means this day."""
        if day.month not in self.months:
            return False
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_day or by_weekday if self.either else by_day and by_weekday


@lru_cache(maxsize=4096)
def parse(text: str) -> Cron:
    """The expression of a text. Raises ValueError with a sentence about the field that does not fit."""
    fields = _WORDS.get(text.strip().lower(), text).split()
    if len(fields) != 5:
        raise ValueError(f"{text!r} has {len(fields)} fields; cron has five: minute hour day month weekday")
    minutes = _field(fields[0], "minute", 0, 59)
    hours = _field(fields[1], "hour", 0, 23)
    days = _field(fields[2], "day of month", 1, 31)
    months = _field(fields[3], "month", 1, 12, _MONTHS)
    weekdays = {number % 7 for number in _field(fields[4], "day of week", 0, 7, _WEEKDAYS)}
    either = not fields[2].startswith("*") and not fields[4].startswith("*")
    return Cron(
        tuple(sorted(minutes)),
        tuple(sorted(hours)),
        tuple(sorted(days)),
        tuple(sorted(months)),
        tuple(sorted(weekdays)),
        either,
    )


def _field(text: str, name: str, low: int, high: int, names: tuple[str, ...] = ()) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        step = _number(step_text, name, 1, high) if slash else 1
        first_text, dash, last_text = span.partition("-")
        if span == "*":
            first, last = low, 6 if names is _WEEKDAYS else high
        else:
            first = _number(first_text, name, low, high, names)
            last = _number(last_text, name, low, high, names) if dash else high if slash else first
        if last < first:
            raise ValueError(f"{part!r} runs backwards in the field {name}")
        found.update(range(first, last + 1, step))
    return found


def _number(text: str, name: str, low: int, high: int, names: tuple[str, ...] = ()) -> int:
    if text.lower() in names:
        return names.index(text.lower()) + (low if names is _MONTHS else 0)
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and low <= int(text) <= high):
        raise ValueError(f"{text!r} is not in {low}-{high} in the field {name}")
    return int(text)


@lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo:
    """The time zone of an IANA name. Raises ValueError where there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {name!r}") from error


def next_after(cron: Cron, zone: ZoneInfo, after_ms: int) -> int | None:
    """The first time after this one, in milliseconds; None where it never comes."""
    # A time that a zone skips at midnight lies in the next day, so the day before and the one behind are looked at.
    day = _local_day(zone, after_ms) - _DAY
    for _ in range(LOOK_AHEAD_DAYS):
        found = [ms for near in (day, day + _DAY) for ms in _times(cron, zone, near) if ms > after_ms]
        if found:
            return min(found)
        day += _DAY
    return None


def last_until(cron: Cron, zone: ZoneInfo, until_ms: int, after_ms: int) -> int | None:
    """The last time that is not after `until_ms`; None where none lies after `after_ms`."""
    day = _local_day(zone, until_ms)
    while day >= _local_day(zone, after_ms) - _DAY:
        found = [ms for near in (day, day - _DAY) for ms in _times(cron, zone, near) if after_ms < ms <= until_ms]
        if found:
            return max(found)
        day -= _DAY
    return None


def _local_day(zone: ZoneInfo, ms: int) -> date:
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone(zone).date()


@lru_cache(maxsize=512)
def _times(cron: Cron, zone: ZoneInfo, day: date) -> tuple[int, ...]:
    return tuple(sorted(set(_moments(cron, zone, day)))) if cron.has_day(day) else ()


def _moments(cron: Cron, zone: ZoneInfo, day: date) -> Iterator[int]:
    every_hour = len(cron.hours) == 24
    for hour in cron.hours:
        for minute in cron.minutes:
            wall = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
            first = int(wall.timestamp()) * 1000
            yield first
            if every_hour:
                second = int(wall.replace(fold=1).timestamp()) * 1000
                if second > first:
                    yield second
