"""Where a subscription that begins in the past gets it from: commits in memory, and pages of the store before those."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from core.kernel.errors import Unavailable
from core.kernel.ports import Store
from core.services.groups import BATCH_BYTES_MAX, Batch, Group, Subscription
from core.services.told import Event, Teller, Told

PAGE = 128
PAGES_MAX = 8
FRAMES_MAX = 64
PAGES_BYTES_MAX = 4 * 1024 * 1024
RING_MAX = 4_000
RING_BYTES_MAX = 4 * 1024 * 1024


class Page(Struct, eq=False):
    """The commits of (after, to], and the frames that were made of them."""

    after: int
    to: int
    commits: list[Told]
    frames: dict[tuple[Group, int, int], tuple[bytes | None, int]] = {}

    @property
    def bytes(self) -> int:
        """The size of its commits."""
        return sum(told.bytes for told in self.commits)


class Ring:
    """The newest commits: at most 4,000 and 4 MiB of them. Who was away for a moment needs nothing else."""

    def __init__(self) -> None:
        self._after = 0
        self._commits: deque[Told] = deque()
        self._bytes = 0
        self._page: Page | None = None

    def keep(self, told: Told) -> None:
        """Add the next commit; the oldest ones go."""
        self._commits.append(told)
        self._bytes += told.bytes
        while len(self._commits) > RING_MAX or self._bytes > RING_BYTES_MAX:
            oldest = self._commits.popleft()
            self._after = oldest.position
            self._bytes -= oldest.bytes

    def clear(self, position: int) -> None:
        """Hold nothing, and what comes after a position from now on."""
        self._commits.clear()
        self._after, self._bytes, self._page = position, 0, None

    def after(self, after: int, to: int) -> Page | None:
        """The commits of (after, to]; None where it does not reach back so far."""
        if after < self._after:
            return None
        if self._page is not None and self._page.after <= after and self._page.to == to:
            return self._page
        commits: list[Told] = []
        for told in reversed(self._commits):
            if told.position <= after:
                break
            commits.append(told)
        commits.reverse()
        self._page = Page(after, to, commits)
        return self._page


class Pages:
    """The last pages of the store: subscribers that come back together read the same ones."""

    def __init__(self, store: Store, teller: Teller) -> None:
        self._store = store
        self._teller = teller
        self._pages: deque[Page] = deque()

    def clear(self) -> None:
        """Hold nothing."""
        self._pages.clear()

    async def after(self, after: int, to: int) -> Page:
        """A page that holds what comes next after a position, and nothing behind `to`. Raises Unavailable."""
        for page in self._pages:
            if page.after <= after < page.to <= to:
                return page
        stored = [stored for stored in await self._store.read(after=after, limit=PAGE) if stored.entry.position <= to]
        if not stored:
            raise Unavailable(f"The store has nothing after position {after}, and {to} is recorded.")
        commits = [told for one in stored if (told := await self._teller.stored(one)) is not None]
        page = Page(after, stored[-1].entry.position, commits)
        self._pages.append(page)
        while len(self._pages) > PAGES_MAX or (len(self._pages) > 1 and self._bytes > PAGES_BYTES_MAX):
            self._pages.popleft()
        return page

    @property
    def _bytes(self) -> int:
        return sum(page.bytes for page in self._pages)


def batch_of(subscription: Subscription, page: Page) -> tuple[bytes | None, int]:
    """The next batch of a subscription out of a page, and how far it reaches; None where nothing in it matches.

    Its size is bounded, and it never ends inside a commit.
    """
    group = subscription.group
    place = (group, subscription.told_to, subscription.read_to)
    if place in page.frames:
        return page.frames[place]
    events: list[Event] = []
    size, reached = 0, page.to
    for told in page.commits:
        if told.position <= subscription.read_to:
            continue
        matching = group.filter.of(told)
        events += matching
        size += sum(len(event.text) for event in matching)
        if size >= BATCH_BYTES_MAX:
            reached = told.position
            break
    frame = group.framing(Batch(group.id, subscription.told_to, reached, events)) if events else None
    if len(page.frames) < FRAMES_MAX:
        page.frames[place] = frame, reached
    return frame, reached
