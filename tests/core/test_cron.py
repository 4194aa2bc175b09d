"""Cron expressions: what they mean, held against a search through every minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.cron import last_until, next_after, parse, zone_of

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Beirut", "Asia/Kolkata")
# Both changes of the clock in each hemisphere, and a plain week.
BEGINNINGS = ("2027-03-27", "2027-10-30", "2027-03-13", "2027-11-06", "2027-04-03", "2027-10-02", "2028-02-27")
MINUTE_MS = 60_000


def ms(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1000


def wall(at_ms: int | None, zone: str = "UTC") -> str:
    assert at_ms is not None
    return datetime.fromtimestamp(at_ms / 1000, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M")


@pytest.mark.parametrize(
    ("text", "after", "comes"),
    [
        ("*/15 * * * *", "2027-01-01 00:07", "2027-01-01 00:15"),
        ("0 9-17/4 * * mon-fri", "2027-01-01 17:00", "2027-01-04 09:00"),
        ("5/20 * * * *", "2027-01-01 00:06", "2027-01-01 00:25"),
        ("0 0 1,15 * *", "2027-01-02 00:00", "2027-01-15 00:00"),
        ("0 0 13 * fri", "2027-01-02 00:00", "2027-01-08 00:00"),
        ("0 0 29 feb *", "2096-03-01 00:00", "2104-02-29 00:00"),
        ("0 0 * * 7", "2027-01-01 00:00", "2027-01-03 00:00"),
        ("@yearly", "2027-01-01 00:00", "2028-01-01 00:00"),
        ("@hourly", "2027-01-01 00:00", "2027-01-01 01:00"),
        ("0 0 31 * *", "2027-01-31 00:00", "2027-03-31 00:00"),
    ],
)
def test_the_next_time_of_an_expression(text: str, after: str, comes: str) -> None:
    assert wall(next_after(parse(text), ZoneInfo("UTC"), ms(after))) == comes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("* * * *", "4 fields"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day of month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day of week"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "backwards"),
        ("* * * foo *", "'foo'"),
        ("@often", "1 fields"),
        ("1,,2 * * * *", "minute"),
        ("- * * * *", "minute"),
    ],
)
def test_what_is_no_expression_is_said_of_its_field(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text)


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 apr,jun,sep,nov *"])
def test_a_day_that_no_month_has_never_comes(text: str) -> None:
    assert next_after(parse(text), ZoneInfo("UTC"), 0) is None


def test_a_day_that_skips_a_time_has_it_later_and_one_that_has_it_twice_has_it_once() -> None:
    berlin, half_past_two = ZoneInfo("Europe/Berlin"), parse("30 2 * * *")
    assert wall(next_after(half_past_two, berlin, ms("2027-03-27 03:00", berlin.key)), berlin.key) == "2027-03-28 03:30"
    first = next_after(half_past_two, berlin, ms("2027-10-30 03:00", berlin.key))
    assert wall(first) == "2027-10-31 00:30", "in UTC: the first of the two"
    assert wall(next_after(half_past_two, berlin, first or 0), berlin.key) == "2027-11-01 02:30"


def test_an_unknown_time_zone_is_none() -> None:
    for name in ("Mars/Olympus", "/etc/passwd", "../x", ""):
        with pytest.raises(ValueError, match="no time zone"):
            zone_of(name)


def searched(text: str, zone: ZoneInfo, begin_ms: int, end_ms: int) -> list[int]:
    """Every time in a span, by looking at each of its minutes, and at each wall minute that it skips."""
    cron = parse(text)

    def means(at: datetime) -> bool:
        return cron.has_day(at.date()) and at.hour in cron.hours and at.minute in cron.minutes

    found = set()
    for at_ms in range(begin_ms, end_ms + 1, MINUTE_MS):
        local = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(zone)
        if means(local) and (local.fold == 0 or len(cron.hours) == 24):
            found.add(at_ms)
    naive = datetime.fromtimestamp(begin_ms / 1000, UTC).replace(tzinfo=None) - timedelta(days=1)
    for _ in range((end_ms - begin_ms) // MINUTE_MS + 2 * 1440):
        naive += timedelta(minutes=1)
        instant = naive.replace(tzinfo=zone).astimezone(UTC)
        if instant.astimezone(zone).replace(tzinfo=None) != naive and means(naive):
            found.add(int(instant.timestamp()) * 1000)
    return sorted(at_ms for at_ms in found if begin_ms < at_ms <= end_ms)


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    spans = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    stepped = st.tuples(st.sampled_from(["*"]) | spans, st.integers(1, 7)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    one = number.map(str) | spans | stepped
    return st.just("*") | one | st.lists(one, min_size=1, max_size=3).map(",".join)


@settings(max_examples=60)
@given(
    st.tuples(fields(0, 59), fields(0, 4), st.just("*") | fields(1, 31), st.just("*"), st.just("*") | fields(0, 7)).map(
        " ".join
    )
    | st.tuples(fields(0, 59), st.just("*")).map(lambda pair: f"{pair[0]} {pair[1]} * * *"),
    st.sampled_from(ZONES),
    st.sampled_from(BEGINNINGS),
)
def test_every_time_is_found_forwards_and_backwards_by_a_search_too(text: str, name: str, begin: str) -> None:
    zone, begin_ms = ZoneInfo(name), ms(begin)
    end_ms = begin_ms + 3 * 1440 * MINUTE_MS
    wanted = searched(text, zone, begin_ms, end_ms)
    forwards, at_ms = [], begin_ms
    while (at_ms := next_after(parse(text), zone, at_ms) or end_ms + 1) <= end_ms and len(forwards) < 5_000:
        forwards.append(at_ms)
    assert forwards == wanted
    for end, last in zip(wanted[1:20], wanted[:19], strict=False):
        assert last_until(parse(text), zone, end - 1, begin_ms) == last
    assert last_until(parse(text), zone, end_ms, begin_ms) == (wanted[-1] if wanted else None)
