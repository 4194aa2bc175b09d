"""Disposable images of the fleet: the fold as bytes. Whoever cannot read one folds the log again."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from core.pause import What
from core.process_managers.alerts import Alerts
from core.process_managers.children import Children, Unseen
from core.process_managers.dependencies import Blocked, Dependencies
from core.scheduling.entries import AgentEntry, HostEntry, TaskEntry
from core.scheduling.fleet import Fleet
from core.scheduling.limits import Limits
from core.scheduling.schedules import ScheduleEntry, Schedules
from core.scheduling.shares import Shares
from core.scheduling.statistics import Statistics


class _Image(Struct, kw_only=True):
    position: int
    term: int
    tasks: list[TaskEntry]
    agents: list[AgentEntry]
    hosts: list[HostEntry]
    orphans: list[str]
    leader: str
    shares: Shares
    limits: Limits
    schedules: list[ScheduleEntry]
    pauses: set[tuple[What, str]]
    statistics: Statistics
    blocked: dict[str, Blocked]
    ready: list[str]
    parents: dict[str, str]
    recalled: dict[str, str]
    unseen: dict[str, Unseen]
    alerts: Alerts


def image_of(fleet: Fleet) -> bytes:
    """The fold as bytes."""
    return msgspec.msgpack.encode(
        _Image(
            position=fleet.position,
            term=fleet.term,
            tasks=list(fleet.tasks.values()),
            agents=list(fleet.agents.values()),
            hosts=list(fleet.hosts.values()),
            orphans=sorted(fleet.orphans),
            leader=fleet.leader,
            shares=fleet.shares,
            limits=fleet.limits,
            schedules=list(fleet.schedules.entries.values()),
            pauses=fleet.pauses,
            statistics=fleet.statistics,
            blocked=fleet.dependencies.blocked,
            ready=fleet.dependencies.ready,
            parents=fleet.children.parents,
            recalled=fleet.children.recalled,
            unseen=fleet.children.unseen,
            alerts=fleet.alerts,
        )
    )


def fleet_of(raw: bytes) -> Fleet:
    """The fleet of an image. Raises msgspec.MsgspecError where the bytes do not fit this program."""
    image = msgspec.msgpack.decode(raw, type=_Image)
    fleet = Fleet()
    fleet.position, fleet.term, fleet.leader = image.position, image.term, image.leader
    fleet.shares, fleet.limits, fleet.statistics = image.shares, image.limits, image.statistics
    fleet.schedules, fleet.pauses = Schedules(image.schedules), image.pauses
    fleet.dependencies = Dependencies(image.blocked, image.ready)
    fleet.children = Children(image.parents, image.recalled, image.unseen)
    fleet.alerts = image.alerts
    fleet.orphans = set(image.orphans)
    fleet.agents = {entry.id: entry for entry in image.agents}
    fleet.hosts = {entry.id: entry for entry in image.hosts}
    fleet.tasks.update((entry.id, entry) for entry in image.tasks)
    fleet.enter_all()
    return fleet
