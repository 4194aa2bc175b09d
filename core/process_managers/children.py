"""Sub-tasks: whatever a cancelled task is made of is cancelled with it, down to the last.

A task takes no part after its end. A part whose parent is not alive when it is folded may have come just after that
end, or long before it on a log that was trimmed of the parent since: whoever issues the command looks which it was.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence

from msgspec import Struct

from core.kernel.commit import Commit
from core.process_managers.dependencies import ENDS
from core.task import CancelChild


class Unseen(Struct, frozen=True):
    """A parent that was not alive when its part was submitted at this position."""

    parent: str
    position: int


class Children:
    """The live parts of live tasks, and those that are to be cancelled."""

    def __init__(
        self,
        parents: dict[str, str] | None = None,
        recalled: dict[str, str] | None = None,
        unseen: dict[str, Unseen] | None = None,
    ) -> None:
        """`parents`: the parent of each live child that has a live one. `recalled`: why a child is to be cancelled."""
        self.parents = parents or {}
        self.recalled = recalled or {}
        self.unseen = unseen or {}
        # Unseen parents that were looked up and are no reason; what was found, and no part of the fold.
        self._cleared: set[str] = set()
        self._children: dict[str, set[str]] = {}
        for child, parent in self.parents.items():
            self._children.setdefault(parent, set()).add(child)

    # --- the fold ---

    def submit(self, child: str, parent: str, position: int, *, alive: bool, cancelling: bool) -> None:
        """A part of a task was submitted."""
        if not alive:
            self.unseen[child] = Unseen(parent, position)
            return
        self.parents[child] = parent
        self._children.setdefault(parent, set()).add(child)
        if cancelling:
            self.recalled[child] = _reason(parent)

    def cancel(self, task_id: str, cancelling: Callable[[str], bool]) -> None:
        """A task is being cancelled, or was: its own call is answered, and its parts that are not yet are called."""
        self._leave(task_id)
        for child in sorted(self._children.get(task_id, ())):
            if not cancelling(child):
                self.recalled.setdefault(child, _reason(task_id))

    def end(self, task_id: str) -> None:
        """A task has ended, however: what is left of its parts goes on by itself, unless it was called."""
        self._leave(task_id)
        for child in self._children.pop(task_id, ()):
            self.parents.pop(child, None)
        parent = self.parents.pop(task_id, None)
        if parent is not None:
            siblings = self._children[parent]
            siblings.discard(task_id)
            if not siblings:
                del self._children[parent]

    def _leave(self, task_id: str) -> None:
        """Nothing is to be done about a task any more."""
        self.recalled.pop(task_id, None)
        self.unseen.pop(task_id, None)
        self._cleared.discard(task_id)

    # --- the commands ---

    def due(self, under_way: Container[str]) -> Iterator[CancelChild]:
        """The commands that are due; what is under way waits."""
        for child, reason in self.recalled.items():
            if child not in under_way:
                yield CancelChild(task_id=child, reason=reason)
        for child, unseen in self.unseen.items():
            if child not in under_way and child not in self._cleared:
                yield CancelChild(task_id=child, reason=_reason(unseen.parent), look_up=unseen.parent)

    def clear(self, child: str) -> None:
        """Its parent was looked up, and is no reason to cancel it."""
        if child in self.unseen:
            self._cleared.add(child)


def confirmed(command: CancelChild, parent: Sequence[Commit], child: Sequence[Commit]) -> CancelChild | None:
    """The command, by the whole history of the parent that it says is to be looked up; None where nothing follows."""
    born = child[0].position if child else 0
    for commit in reversed(parent):
        for event in commit.events:
            status = ENDS.get(type(event))
            if status == "cancelled":
                return CancelChild(task_id=command.task_id, reason=command.reason)
            if status is not None and commit.position < born:
                reason = f"Task {command.look_up}, which it is a part of, had ended before it was submitted."
                return CancelChild(task_id=command.task_id, reason=reason)
    return None


def _reason(parent: str) -> str:
    return f"Task {parent}, which it is a part of, was cancelled."
