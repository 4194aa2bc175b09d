"""A batch whose items name each other: who waits for whom, in which order they go to the log, and what cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from uuid import UUID

import msgspec
from msgspec import Struct

from core.kernel.errors import HivebusError, Unprocessable
from core.kernel.ids import derive
from core.task import Dependency, SubmitTask

Item = Struct | HivebusError


class Plan(Struct, frozen=True):
    """The items with ids in the place of references; their order; and for each the items that must be accepted first.

    `needs`: (index of the other item, pointer to where it is named).
    """

    items: list[Item]
    order: list[int]
    needs: dict[int, list[tuple[int, str]]]
    refs: dict[int, str]


def planned(commands: Sequence[Item], batch_id: UUID) -> Plan:
    """The plan of a batch. An item that can never be accepted becomes its error; what needs it is told by it."""
    items = list(commands)
    places = _places(items)
    if not places and not any(isinstance(item, SubmitTask) and _names(item) for item in items):
        return Plan(items, list(range(len(items))), {}, {})
    needs: dict[int, list[tuple[int, str]]] = {}
    for index, item in enumerate(items):
        if isinstance(item, SubmitTask):
            try:
                needs[index] = _needs(item, index, places)
            except Unprocessable as error:
                items[index] = error
    _refuse_cycles(items, needs, {index: ref for ref, index in places.items()})
    for index, item in enumerate(items):
        if isinstance(item, SubmitTask):
            items[index] = _resolved(item, places, batch_id)
    refs = {index: ref for ref, index in places.items()}
    return Plan(items, _order(len(items), needs), needs, refs)


def _places(items: list[Item]) -> dict[str, int]:
    """Where each ref stands; an item that repeats one becomes its error."""
    places: dict[str, int] = {}
    for index, item in enumerate(items):
        if isinstance(item, SubmitTask) and item.ref is not None and places.setdefault(item.ref, index) != index:
            items[index] = Unprocessable(
                f"Item {places[item.ref]} of this batch has the ref {item.ref!r} already.",
                code="duplicate_ref",
                pointer="/ref",
                remedy="A ref is unique in its batch.",
            )
    return places


def _names(item: SubmitTask) -> list[tuple[str, str]]:
    """The references of an item, each with its pointer."""
    found = []
    for number, said in enumerate(item.depends_on):
        task = said.task if isinstance(said, Dependency) else said
        if task is not None and task.startswith("@"):
            found.append((task[1:], f"/depends_on/{number}"))
    if item.parent is not None and item.parent.startswith("@"):
        found.append((item.parent[1:], "/parent"))
    return found


def _needs(item: SubmitTask, index: int, places: dict[str, int]) -> list[tuple[int, str]]:
    needs = []
    for ref, pointer in _names(item):
        if ref not in places:
            raise Unprocessable(
                f"No item of this batch has the ref {ref!r}.",
                code="unknown_parent" if pointer == "/parent" else "unknown_dependency",
                pointer=pointer,
                remedy="Give an item this ref, or name a task by its id.",
            )
        if places[ref] == index:
            raise Unprocessable("A task cannot depend on itself.", code="self_dependency", pointer=pointer)
        needs.append((places[ref], pointer))
    return needs


def _refuse_cycles(items: list[Item], needs: dict[int, list[tuple[int, str]]], refs: dict[int, str]) -> None:
    """Every item of a cycle becomes an error that names the way around."""
    done: set[int] = set()
    for root in needs:
        path: list[int] = []
        on_path: set[int] = set()
        stack: list[tuple[int, int]] = [(root, 0)]
        while stack:
            index, next_need = stack.pop()
            if next_need == 0:
                if index in done:
                    continue
                path.append(index)
                on_path.add(index)
            others = needs.get(index, [])
            if next_need == len(others):
                done.add(index)
                on_path.discard(path.pop())
                continue
            stack.append((index, next_need + 1))
            other = others[next_need][0]
            if other in on_path:
                _name_cycle(items, path[path.index(other) :], needs, refs)
            elif other not in done:
                stack.append((other, 0))


def _name_cycle(
    items: list[Item], cycle: list[int], needs: dict[int, list[tuple[int, str]]], refs: dict[int, str]
) -> None:
    way = " -> ".join(f"@{refs[index]}" for index in (*cycle, cycle[0]))
    for index, other in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
        pointer = next(pointer for need, pointer in needs[index] if need == other)
        items[index] = Unprocessable(
            f"These items wait for each other: {way}.",
            code="dependency_cycle",
            pointer=pointer,
            remedy="Take one of these dependencies out.",
        )


def _resolved(item: SubmitTask, places: dict[str, int], batch_id: UUID) -> SubmitTask:
    def id_of(text: str | None) -> str | None:
        if text is None or not text.startswith("@"):
            return text
        return str(derive(derive(batch_id, str(places[text[1:]])), "task"))

    depends_on: list[str | Dependency] = [
        msgspec.structs.replace(said, task=id_of(said.task)) if isinstance(said, Dependency) else id_of(said) or said
        for said in item.depends_on
    ]
    return msgspec.structs.replace(item, ref=None, depends_on=depends_on, parent=id_of(item.parent))


def _order(size: int, needs: dict[int, list[tuple[int, str]]]) -> list[int]:
    """The order of the batch, but whatever is needed first. Of a cycle nobody waits for anybody: all are refused."""
    open_needs = {index: len({other for other, _ in others}) for index, others in needs.items()}
    dependents: dict[int, set[int]] = {}
    for index, others in needs.items():
        for other, _ in others:
            dependents.setdefault(other, set()).add(index)
    ready = [index for index in range(size) if not open_needs.get(index)]
    heapify(ready)
    order: list[int] = []
    while ready:
        index = heappop(ready)
        order.append(index)
        for dependent in dependents.get(index, ()):
            open_needs[dependent] -= 1
            if not open_needs[dependent]:
                heappush(ready, dependent)
    placed = set(order)
    return order + [index for index in range(size) if index not in placed]
