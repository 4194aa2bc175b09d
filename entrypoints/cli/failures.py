"""What can go wrong for a user, and the exit code of each.

Failure
|-- BadInput      2  what was given cannot be sent
|-- Unreachable   3  no server answers
|-- Refusal       1  the server answered with a problem document
`-- Crash         1  a defect of this program; HIVEBUS_DEBUG=1 shows the traceback
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar


class Exit(IntEnum):
    """What a script can tell from the exit code."""

    OK = 0
    SOME_NOT = 1
    USAGE = 2
    UNREACHABLE = 3
    WAITING = 4
    INTERRUPTED = 130


class Failure(Exception):
    """Ends a command: one sentence, and what to do about it."""

    exit_code: ClassVar[Exit] = Exit.SOME_NOT
    code = "failed"

    def __init__(self, sentence: str, *, remedy: str = "", code: str | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.remedy = remedy
        self.code = code or self.code

    def problem(self) -> dict[str, Any]:
        """The failure as the members of a problem document (RFC 9457)."""
        members = {"type": f"urn:hivebus:problem:{self.code}", "code": self.code, "detail": self.sentence}
        return members | ({"remedy": self.remedy} if self.remedy else {})


class BadInput(Failure):
    """Nothing was sent, because what was given cannot be."""

    exit_code = Exit.USAGE
    code = "bad_input"


class Unreachable(Failure):
    """No server answers where one should be."""

    exit_code = Exit.UNREACHABLE
    code = "unreachable"


class Refusal(Failure):
    """The server said no, or could not."""

    code = "refused"

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        detail = document.get("detail") or f"The server answered {status}."
        super().__init__(str(detail), remedy=str(document.get("remedy") or ""))
        self.status = status
        self.document = document

    def problem(self) -> dict[str, Any]:
        """The server's own document."""
        return self.document or super().problem() | {"status": self.status}


class Crash(Failure):
    """A defect: the user gets a sentence, and the way to see more."""

    code = "internal"
