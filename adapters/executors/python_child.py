"""The process of one plain task function, started by path: a request on stdin, JSON lines on the control pipe.

Lines out: {"progress": {...}}, and at the end {"value": ...}, {"asks": {question, choices}} or {"error": {type,
message, traceback, lasting}}. The module paths come with the request, so that the function is found where the host
found it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

VALUE_MAX_BYTES = 1024 * 1024
TRACEBACK_MAX_CHARS = 4096
QUESTION_MAX_CHARS = 4000
CHOICES_MAX = 32
CHOICE_MAX_CHARS = 200


class InputRequired(BaseException):
    """Ends the attempt with a question. No Exception, so that a function that catches those lets it pass."""

    def __init__(self, question: str, choices: list[str] | None) -> None:
        super().__init__(question)
        self.question = question
        self.choices = choices

    def asked(self) -> dict[str, Any]:
        """The question as a line has it."""
        return {"question": self.question, "choices": self.choices}


class Task:
    """What a function that declares a parameter named `task` is given."""

    def __init__(
        self,
        *,
        task_id: str,
        attempt: int,
        workspace: Callable[[], Path],
        steps: dict[str, Any],
        send: Callable[[dict[str, Any]], None],
        answers: Sequence[dict[str, Any]] = (),
        left: dict[str, Any] | None = None,
    ) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.steps = steps
        self.answers = list(answers)
        # What the task's budget leaves to this attempt; None where it has none.
        self.tokens_left: int | None = (left or {}).get("tokens")
        self.cost_left: float | None = (left or {}).get("cost")
        self._used: dict[str, Any] = {}
        self._workspace = workspace
        self._send = send

    @property
    def workspace(self) -> Path:
        """A directory of this attempt alone, removed at its end. It is made at the first look."""
        return self._workspace()

    def ask(self, question: str, choices: Sequence[str] | None = None) -> Any:
        """The answer to a question that was answered before; else this attempt ends here, and the task waits for one.

        The next attempt begins at the function's start and gets here with the answer. A question is known by its text.
        """
        for said in self.answers:
            if said["question"] == question:
                return said["answer"]
        offered = None if choices is None else list(choices)
        if not question or len(question) > QUESTION_MAX_CHARS:
            raise ValueError(f"a question has 1 to {QUESTION_MAX_CHARS} characters")
        if offered is not None and not (
            0 < len(offered) <= CHOICES_MAX and all(0 < len(choice) <= CHOICE_MAX_CHARS for choice in offered)
        ):
            raise ValueError(f"choices are 1 to {CHOICES_MAX} texts of at most {CHOICE_MAX_CHARS} characters")
        raise InputRequired(question, offered)

    def report(
        self,
        progress: float | None = None,
        *,
        current_step: str | None = None,
        steps_completed: int | None = None,
        total_steps: int | None = None,
    ) -> None:
        """Say how far the work is: `progress` from 0 to 1, `current_step` in at most 256 characters."""
        if progress is not None and not 0 <= progress <= 1:
            raise ValueError(f"progress is between 0 and 1, not {progress}")
        fields = {
            "progress": progress,
            "current_step": current_step[:256] if current_step else None,
            "steps_completed": steps_completed,
            "total_steps": total_steps,
        }
        self._send({name: value for name, value in fields.items() if value is not None})

    def spend(self, *, tokens: int | None = None, cost: float | None = None) -> None:
        """Say that the work used so many tokens more, or cost so much more. The sums go to the task's budget."""
        if tokens is not None and not isinstance(tokens, int):
            raise ValueError(f"tokens are a whole number, not {tokens!r}")
        for name, more in (("tokens", tokens), ("cost", cost)):
            if more is not None and not more >= 0:
                raise ValueError(f"{name} is 0 or more, not {more}")
            if more is not None:
                self._used[name] = self._used.get(name, 0) + more
        self._send({"usage": dict(self._used)})


def resolve_target(target: str) -> Any:
    """The object that `module:attribute.path` names."""
    module, _, path = target.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in path.split("."):
        found = getattr(found, attribute)
    return found


def encode_value(value: Any) -> bytes:
    """The value as JSON. TypeError for what has no JSON form, ValueError beyond 1 MiB."""
    import msgspec  # noqa: PLC0415 - in the child it is found only once the request has brought the module paths

    data = msgspec.json.encode(value)
    if len(data) > VALUE_MAX_BYTES:
        raise ValueError(f"The value is {len(data)} bytes of JSON; a result takes {VALUE_MAX_BYTES}.")
    return data


def describe(error: BaseException, *, lasting: bool = False) -> dict[str, Any]:
    """An exception as an error line: its type, its message and the last lines of its traceback."""
    text = "".join(traceback.format_exception(error))
    if len(text) > TRACEBACK_MAX_CHARS:
        text = "[...]\n" + text[-TRACEBACK_MAX_CHARS:].partition("\n")[2]
    return {"type": type(error).__name__, "message": str(error)[:1024], "traceback": text, "lasting": lasting}


def _run(request: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> bytes:
    arguments = request["arguments"]
    if request["wants_task"]:
        arguments["task"] = Task(
            task_id=request["task_id"],
            attempt=request["attempt"],
            workspace=Path.cwd,
            steps=request["steps"],
            send=lambda fields: send({"progress": fields}),
            answers=request["answers"],
            left=request["left"],
        )
    value = resolve_target(request["target"])(**arguments)
    try:
        return b'{"value":' + encode_value(value) + b"}\n"
    except (TypeError, ValueError) as error:
        return _line({"error": describe(error, lasting=True)})


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def main() -> int:
    """Run the one function; 0 when it returned, 1 when it raised."""
    control_fd = int(os.environ.pop("HIVEBUS_CONTROL_FD"))
    os.set_inheritable(control_fd, False)  # a program that the function starts must not hold the pipe open
    request = json.load(sys.stdin)
    sys.path[:] = request["sys_path"]
    with open(control_fd, "wb", buffering=0) as control:

        def send(message: dict[str, Any]) -> None:
            control.write(_line(message))

        try:
            last = _run(request, send)
        except InputRequired as asked:
            last = _line({"asks": asked.asked()})
        except BaseException as error:  # sys.exit() in a task is a failure of the task like any other
            last = _line({"error": describe(error)})
        _write_all(control_fd, last)
    return 0 if last.startswith(b'{"value"') else 1


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


if __name__ == "__main__":
    sys.exit(main())
