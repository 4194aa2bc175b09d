"""The executor port: what an attempt is, what came of it, and the parameters that each executor understands.

Parameters are checked here, at the door, so that a task which could never run is refused with a JSON pointer instead of
failing on a machine far away. What only a machine can know (is the program there, does the secret exist) is an Outcome.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta, Struct

from core.kernel.errors import Unprocessable

MIB = 1024 * 1024
GRACE_S = 5.0
DEPTH_MAX = 32
BLOB_MAX_BYTES = 64 * MIB
PRIVATE_SALT_BYTES = 32
TOKENS_MAX = 10**15
COST_MAX = 10**9

OutcomeKind = Literal["completed", "failed", "timed_out", "cancelled", "output_limit", "crashed", "input_required"]

# NUL ends a string for the kernel: a name or argument that holds one would be cut silently, or refused at exec.
_NO_NUL = r"^[^\x00]*$"

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
SecretName = Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9_]{0,63}$(?!\n)")]
EnvName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$(?!\n)")]
Text = Annotated[str, Meta(pattern=_NO_NUL, max_length=128 * 1024 - 1)]
Input = Annotated[str, Meta(max_length=MIB)]


class Reference(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A value that stands elsewhere: {"secret": NAME}, {"blob": sha256, "size": N} or {"private": {"blob", "size"}}.

    A private blob holds 32 random salt bytes followed by the value as UTF-8 JSON; its name is the SHA-256 over all of
    it, so the hash in the log says nothing about a short value, and deleting the blob erases it.
    """

    secret: SecretName | None = None
    blob: Sha256 | None = None
    size: Annotated[int, Meta(ge=0, le=BLOB_MAX_BYTES)] | None = None
    private: Reference | None = None

    def __post_init__(self) -> None:
        if [self.secret, self.blob, self.private].count(None) != 2:
            raise ValueError("A reference is one of `secret`, `blob` or `private`")
        if (self.blob is None) != (self.size is None):
            raise ValueError("A blob is named with its `size` in bytes")
        if self.private is not None and self.private.blob is None:
            raise ValueError("A private value is named by its blob")


class CommandParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of the executor `command`: one program, started without a shell, in a workspace of its own."""

    argv: Annotated[list[Text | Reference], Meta(min_length=1, max_length=1024)]
    env: Annotated[dict[EnvName, Text | Reference], Meta(max_length=256)] = {}
    stdin: Input | Reference | None = None
    memory_max_mb: Annotated[int, Meta(ge=16, le=1024 * 1024)] = 2048
    output_max_bytes: Annotated[int, Meta(ge=1, le=64 * MIB)] = 16 * MIB
    network: bool = True
    keep: bool = False


class PythonParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of the executor `python`: a function registered under the entry-point group `hivebus.tasks`."""

    function: Annotated[str, Meta(min_length=1, max_length=128)]
    arguments: Annotated[dict[str, Any], Meta(max_length=256)] = {}


EXECUTORS: dict[str, type[CommandParameters] | type[PythonParameters]] = {
    "command": CommandParameters,
    "python": PythonParameters,
}


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What an attempt has used from its beginning: tokens of models, and what it cost. Null is not known.

    The cost is in whatever unit its budgets are in; what is beyond nine decimals does not count.
    """

    tokens: Annotated[int, Meta(ge=0, le=TOKENS_MAX)] | None = None
    cost: Annotated[float, Meta(ge=0, le=COST_MAX)] | None = None


class Attempt(Struct, frozen=True, kw_only=True):
    """One try at a task, as the host hands it to an executor. `fence` is the position of its assignment.

    `answers`: what earlier attempts asked, and were told: {question, answer}, the oldest first. `left`: what the
    task's budget leaves to this attempt, null where it has none.
    """

    task_id: str
    agent_id: str
    attempt: int
    executor: str
    type: str
    parameters: dict[str, Any]
    timeout_s: float
    fence: int
    steps: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    answers: list[dict[str, Any]] = []
    left: Usage = Usage()


class Progress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far an attempt is: `progress` from 0 to 1, null where the task cannot tell; and what it has used so far."""

    progress: Annotated[float, Meta(ge=0, le=1)] | None = None
    current_step: Annotated[str, Meta(max_length=256)] | None = None
    steps_completed: Annotated[int, Meta(ge=0)] | None = None
    total_steps: Annotated[int, Meta(ge=0)] | None = None
    usage: Usage | None = None


# What an executor reports of an attempt that cannot tell how far it is, and yet does something.
SIGN_OF_LIFE = Progress()


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of an attempt.

    `error` is a sentence for people, null only for `completed`. `retryable` is false where another try would fail the
    same way. `crashed` means that the machine failed, not the task. `retry_after_ms` is a wish of the far side.
    `input_required`: it cannot go on before somebody has answered `question`, by one of `choices` if there are any.
    `usage`: null where it says no more than the last progress did.
    """

    outcome: OutcomeKind
    result: dict[str, Any] | None = None
    error: str | None = None
    retryable: bool = True
    retry_after_ms: int | None = None
    question: str | None = None
    choices: list[str] | None = None
    usage: Usage | None = None


class CancelToken:
    """The cooperative half of a cancellation: the host cancels, the executor looks, waits or is called back."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self.cancelled = asyncio.Event()
        self.reason: str | None = None
        self.grace_s = grace_s
        self._callbacks: list[Callable[[], None]] = []

    def cancel(self, reason: str) -> None:
        """Cancel; the first reason stays. Callbacks run before this returns, once each."""
        if self.cancelled.is_set():
            return
        self.reason = reason
        self.cancelled.set()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back on cancellation, at once if it has happened already. Returns what unsubscribes, harmless twice."""
        if self.cancelled.is_set():
            callback()
            return lambda: None
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe


class Executor(Protocol):
    """Runs attempts of one kind. Attempts may run concurrently in one event loop."""

    @property
    def name(self) -> str:
        """The word that tasks say in `executor`."""
        ...

    async def run(self, attempt: Attempt, token: CancelToken, report: Callable[[Progress], None]) -> Outcome:
        """Run to the end, whatever the end is.

        Never raises for what the task did. Returns within `timeout_s` and a grace, and within the grace once the token
        is cancelled. Leaves no process behind. `report` may be called until this returns, never after.
        """
        ...


def parameters_of(executor: str, parameters: dict[str, Any]) -> CommandParameters | PythonParameters:
    """The parameters as the executor's Struct; Unprocessable with a pointer beneath /parameters."""
    struct = EXECUTORS.get(executor)
    if struct is None:
        raise Unprocessable(
            f"There is no executor {executor!r}; known are {', '.join(sorted(EXECUTORS))}.",
            code="unknown_executor",
            pointer="/executor",
            known=sorted(EXECUTORS),
        )
    try:
        converted = msgspec.convert(parameters, struct)
    except msgspec.ValidationError as error:
        raise _unprocessable(error, "/parameters") from error
    if isinstance(converted, CommandParameters):
        _check_argv(converted.argv)
    else:
        for _ in references(converted.arguments, pointer="/parameters/arguments"):
            pass  # finding them checks them
    return converted


def _check_argv(argv: list[str | Reference]) -> None:
    if argv[0] == "":
        raise Unprocessable("The first item of argv names the program; it is empty.", pointer="/parameters/argv/0")
    for index, item in enumerate(argv):
        if isinstance(item, Reference) and item.secret is not None:
            raise Unprocessable(
                "A secret in argv can be read by every user of the machine.",
                pointer=f"/parameters/argv/{index}",
                remedy="Hand it over in `env` or `stdin`.",
            )


def references(value: Any, *, pointer: str = "", depth: int = 0) -> Iterator[tuple[str, Reference]]:
    """All references inside a JSON value, with their pointers.

    Raises Unprocessable for what has the shape of a reference and is none, and beyond DEPTH_MAX levels.
    """
    if depth > DEPTH_MAX:
        raise Unprocessable(f"Nested deeper than {DEPTH_MAX} levels.", code="too_deep", pointer=pointer)
    if isinstance(value, dict):
        found = as_reference(value, pointer=pointer)
        if found is not None:
            yield pointer, found
            return
        for key, item in value.items():
            if isinstance(item, dict | list):
                yield from references(item, pointer=f"{pointer}/{escape(key)}", depth=depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict | list):
                yield from references(item, pointer=f"{pointer}/{index}", depth=depth + 1)


def as_reference(value: dict[str, Any], *, pointer: str = "") -> Reference | None:
    """The reference that an object is, None if it is plain data; Unprocessable if it is a broken one."""
    if not (len(value) == 1 and ("secret" in value or "private" in value or "blob" in value)) and (
        value.keys() != {"blob", "size"}
    ):
        return None
    try:
        return msgspec.convert(value, Reference)
    except msgspec.ValidationError as error:
        raise _unprocessable(error, pointer) from error


def escape(key: str) -> str:
    """A key as a token of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


_AT = re.compile(r" - at (?:`key` in )?`\$(?P<path>[^`]*)`\Z")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_FIELD = re.compile(r"(?:missing required|contains unknown) field `([^`]+)`")


def _unprocessable(error: msgspec.ValidationError, base: str) -> Unprocessable:
    """msgspec's `Expected ... - at `$.argv[0]`` as a sentence and a JSON pointer.

    Inside an object with free keys msgspec writes `[...]`; there the pointer names the object.
    """
    text = str(error)
    at = _AT.search(text)
    sentence = text[: at.start()] if at else text
    steps = [name or index for name, index in _STEP.findall(at["path"] if at else "")]
    steps += _FIELD.findall(sentence)
    pointer = base + "".join(f"/{escape(step)}" for step in steps)
    return Unprocessable(f"{sentence}.", pointer=pointer)
