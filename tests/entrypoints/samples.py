"""What every action can be asked: good arguments, and bad ones with the code that each must get.

Everything is derived from the fields of an action, so that a new one is asked too. What cannot be derived is said in
GOOD; an action for which neither works fails the test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from msgspec import NODEFAULT, Struct
from msgspec import inspect as types

from core.actions import registry
from core.kernel.registry import Route
from entrypoints.calls import Nothing
from entrypoints.http.events import ReadEvents
from projections.catalogue import QUERIES
from tests.entrypoints.program import RunningProgram, until
from tests.ways import Place, Refusal

BODY_BYTES = 1024 * 1024 + 64 * 1024
SECRET = "sk-" + "a1b2" * 6
NOBODY = "no-such-thing"
# Nobody can do it, so it stays as it is however long the other ways take.
TASK = {
    "type": "greet",
    "executor": "command",
    "parameters": {"argv": ["true"]},
    "requires": ["nobody"],
    "name": "one",
}
# Its times never come while the tests run.
SCHEDULE = {"task": TASK, "cron": "0 0 29 2 *"}
GOOD: dict[str, dict[str, Any]] = {
    "task.submit": TASK,
    "agent.spawn": {"type": "shell", "name": "ann", "capabilities": []},
    "event.list": {"after": 0, "limit": 3},
    "task.answer": {"answer": "blue"},
    "schedule.set": SCHEDULE,
    # A type that no other test asks for.
    "queue.pause": {"what": "type", "name": "sample"},
    "queue.resume": {"what": "type", "name": "sample"},
    # Of these there is none.
    "replay.start": {"status": "expired", "type": "sample"},
}
# The state of a new thing in which an action succeeds, if not as it was made; each is made by `made`.
STATES = {
    "task.approve": "unapproved",
    "task.reject": "unapproved",
    "task.answer": "asking",
    "task.replay": "cancelled",
}
QUESTION = {"question": "Which?", "choices": ["red", "blue"]}
# Which state of its target an action refuses, and with which code.
ILLEGAL: dict[str, tuple[str, str]] = {
    "task.cancel": ("ended", "illegal_transition"),
    "task.approve": ("ended", "illegal_transition"),
    "task.reject": ("ended", "illegal_transition"),
    "task.answer": ("ended", "nothing_asked"),
    "task.replay": ("fresh", "not_replayable"),
}


@dataclass(frozen=True)
class Action:
    """An action as the outside knows it."""

    name: str
    struct: type[Struct]
    route: Route
    reads: bool
    fields: dict[str, types.Field] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        kind = types.type_info(self.struct)
        assert isinstance(kind, types.StructType)
        object.__setattr__(self, "fields", {inner.encode_name: inner for inner in kind.fields})

    @property
    def target(self) -> str | None:
        """The field that names what the action is done to: `task_id` of task.cancel, `key` of limit.set."""
        names = (f"{self.name.partition('.')[0]}_id", "key", "name")
        return next((name for name in names if name in self.fields and f"{{{name}}}" in self.route.path), None)

    @property
    def place(self) -> Place:
        """Where REST has it."""
        return Place(self.route.method, self.route.path)


def _all() -> Iterator[Action]:
    known = registry(QUERIES)
    for command in known.client_commands():
        assert command.route is not None
        yield Action(command.name, command.struct, command.route, reads=False)
    for query in known.queries.values():
        yield Action(query.name, query.struct, query.route, reads=True)
    yield Action("event.list", ReadEvents, Route("GET", "/api/events"), reads=True)
    yield Action("system.status", Nothing, Route("GET", "/api/status"), reads=True)
    yield Action("system.info", Nothing, Route("GET", "/api/info"), reads=True)


ACTIONS = {action.name: action for action in _all()}
COMMANDS = [name for name, action in ACTIONS.items() if not action.reads]


def good(action: Action, program: RunningProgram, state: str | None = None) -> dict[str, Any]:
    """Arguments that must succeed; what it is done to is made for this call."""
    arguments = dict(GOOD.get(action.name, {}))
    if action.target is not None:
        state = state or STATES.get(action.name, "fresh")
        arguments[action.target] = made(action.target.removesuffix("_id"), program, state)
    for name, inner in action.fields.items():
        if inner.required and name not in arguments:
            arguments[name] = _value(inner.type, f"{action.name} needs {name}")
    return arguments


def made(noun: str, program: RunningProgram, state: str = "fresh") -> str:
    """The id of a new thing. Whoever uses a limit or a schedule names it.

    A task may be `ended` (completed), `cancelled`, `unapproved` (blocked by an approval) or `asking`.
    """
    if noun == "key":
        limited = program.request("PUT", "/api/limits/sample", json={"concurrency": 1}, params={"wait": "recorded"})
        assert limited.status_code == 202, limited.text
        return "sample"
    if noun == "name":
        path = "/api/schedules/sample"
        scheduled = program.request("PUT", path, json=SCHEDULE, params={"wait": "recorded"})
        assert scheduled.status_code == 202, scheduled.text
        return "sample"
    if noun == "alert":
        # A task that waits for ever, for longer than the program of these tests has patience.
        made("task", program)
        found = until(lambda: program.get("/api/alerts")["alerts"], what="an alert")
        return str(found[0]["id"])
    if (noun, state) == ("task", "cancelled"):
        waiting = made("task", program)
        cancelled = program.request("DELETE", f"/api/tasks/{waiting}", params={"wait": "recorded"})
        assert cancelled.status_code == 202, cancelled.text
        return waiting
    if (noun, state) == ("task", "ended"):
        task_id: str = program.submit("true")["task_id"]
        program.ended(task_id)
        return task_id
    if (noun, state) == ("task", "asking"):
        parameters = {"function": "ask", "arguments": QUESTION}
        task = {"type": "ask", "executor": "python", "parameters": parameters}
        asking = program.request("POST", "/api/tasks", json=task)
        assert asking.status_code == 202, asking.text
        return str(program.reaches(asking.json()["task_id"], "input_required")["id"])
    [creating] = [name for name, path in CREATING.items() if path == f"/api/{noun}s"]
    body = GOOD[creating] | ({"depends_on": [{"type": "approval"}]} if state == "unapproved" else {})
    response = program.request("POST", CREATING[creating], json=body, params={"wait": "recorded"})
    assert response.status_code == 202, response.text
    return str(response.json()[f"{noun}_id"])


CREATING = {spec.name: spec.route.path for spec in registry().client_commands() if spec.creates and spec.route}


def _value(kind: types.Type, what: str) -> Any:
    """A value that fits a type of a required field."""
    match _bare(kind):
        case types.StrType() as text if text.pattern is None:
            return "Bob"[: text.max_length or 3].ljust(text.min_length or 0, "b")
        case types.IntType() as number:
            return number.ge if number.ge is not None else 1
        case types.FloatType():
            return 1.0
        case types.BoolType():
            return True
        case types.LiteralType() as words:
            return words.values[0]
        case other:
            raise AssertionError(f"{what}, and nobody knows a good {other}: say one in GOOD of {__name__}")


def _bare(kind: types.Type) -> types.Type:
    """A type without its metadata and without None."""
    while isinstance(kind, types.Metadata):
        kind = kind.type
    if isinstance(kind, types.UnionType):
        others = [inner for inner in kind.types if not isinstance(inner, types.NoneType)]
        return _bare(others[0]) if len(others) == 1 else kind
    return kind


# --- bad input --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    """Arguments that must be refused, made anew for each way, and what the refusal must be.

    `first` is a call that is made before, and must succeed.
    """

    case: str
    action: Action
    refusal: Refusal
    arguments: Callable[[RunningProgram], dict[str, Any]]
    first: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    @property
    def id(self) -> str:
        """For the test's name."""
        return f"{self.action.name}-{self.case}"


def bad(action: Action) -> Iterator[Bad]:
    """Every bad call of an action that its fields allow."""

    def case(name: str, code: str, pointer: str | None, state: str | None = None, /, **changed: Any) -> Bad:
        return Bad(name, action, Refusal(code, pointer), lambda program: good(action, program, state) | changed)

    needed = next((name for name, inner in action.fields.items() if inner.required and name != action.target), None)
    if needed is not None or action.target is not None:
        gone = needed or action.target
        yield Bad(
            "missing-field",
            action,
            Refusal("missing_field", f"/{gone}"),
            lambda program: {name: value for name, value in good(action, program).items() if name != gone},
        )
    yield case("unknown-field", "unknown_field", "/colour", colour="red")
    yield from _misfits(action, case)
    if action.target is not None and action.target.endswith("_id"):
        yield case("unknown-id", f"unknown_{action.target[:-3]}", None, **{action.target: NOBODY})
    if action.reads:
        return
    if action.name in ILLEGAL:
        state, code = ILLEGAL[action.name]
        yield case("illegal-transition", code, None, state)
    yield case("too-large", "too_large", None, colour="x" * BODY_BYTES)
    text = _free_text(action)
    if text is not None:
        yield case("literal-secret", "literal_secret", f"/{text}", **{text: SECRET})
        yield Bad(
            "key-reused",
            action,
            Refusal("idempotency_key_reused"),
            lambda program: good(action, program) | {text: "another"},
            first=lambda arguments: arguments | {text: "one"},
        )


def _misfits(action: Action, case: Callable[..., Bad]) -> Iterator[Bad]:
    """One value of a wrong type and one beyond a bound, of fields that the path does not hold."""
    beside = {
        name: _bare(inner.type) for name, inner in action.fields.items() if f"{{{name}}}" not in action.route.path
    }
    for name, kind in beside.items():
        if isinstance(kind, types.IntType | types.FloatType):
            yield case("wrong-type", "invalid_field", f"/{name}", **{name: "many"})
            break
    for name, kind in beside.items():
        if isinstance(kind, types.StrType) and kind.max_length is not None:
            yield case("too-long", "invalid_field", f"/{name}", **{name: "x" * (kind.max_length + 1)})
            break
        if isinstance(kind, types.IntType) and kind.le is not None:
            yield case("too-many", "invalid_field", f"/{name}", **{name: kind.le + 1})
            break


def _free_text(action: Action) -> str | None:
    """A field for any text, which may be left out."""
    for name, inner in action.fields.items():
        kind = _bare(inner.type)
        free = isinstance(kind, types.StrType) and kind.pattern is None and not name.endswith("_id")
        if free and inner.default is not NODEFAULT:
            return name
    return None


BAD = [case for action in ACTIONS.values() for case in bad(action)]
