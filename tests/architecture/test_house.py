"""The rules of the house that no linter knows. Each check is a function, so that it can be seen to fail."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct, structs
from msgspec import inspect as types

from core.actions import AGGREGATES, registry
from core.kernel.commit import Event
from core.kernel.registry import CommandSpec
from projections.catalogue import QUERIES

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "adapters", "projections", "entrypoints", "migrations")
OURS = (*ROOMS, "tests")
WEB = (".js", ".css", ".html")
LINES_MAX = 400
# Debts, each with the bound it may not pass. They shrink; nothing is added.
LONGER: dict[str, int] = {}
WAIT_FOR: set[str] = set()
SLEEPS = {
    "tests/entrypoints/test_events.py": 1,
    "tests/entrypoints/test_lifecycle.py": 1,  # the delay of a signal is what that test is about
    "tests/entrypoints/test_rest.py": 2,
}
# Functions that tasks run: their sleeping is the work.
SLEEPERS = {"tests/adapters/task_functions.py"}


def python_files(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


# --- arrows -----------------------------------------------------------------------------------------------------------


def imported(tree: ast.AST) -> set[str]:
    """The top-level names that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("core" if node.level else (node.module or "").partition(".")[0])
    return found


def strangers(tree: ast.AST) -> set[str]:
    """What core may not import."""
    return imported(tree) - sys.stdlib_module_names - {"core", "msgspec", "__future__"}


@pytest.mark.parametrize("path", python_files("core"), ids=name_of)
def test_core_imports_the_standard_library_and_msgspec_only(path: Path) -> None:
    assert strangers(tree_of(path)) == set()


@pytest.mark.parametrize("source", ["import orjson", "def f():\n    from adapters.clock import SystemClock"])
def test_a_stranger_in_core_is_found(source: str) -> None:
    assert strangers(ast.parse(source)) != set()


def shadows(distributions: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Foreign distributions that bring a top-level package of our name."""
    return {name: other for name in OURS if (other := set(distributions.get(name, ())) - {"hivebus"})}


def test_no_installed_distribution_shadows_our_packages() -> None:
    assert shadows(packages_distributions()) == {}
    assert shadows({"core": ["hivebus", "some-core"]}) == {"core": {"some-core"}}


def test_the_wheel_holds_exactly_the_rooms() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == rooms == set(ROOMS)


# --- the vocabulary ---------------------------------------------------------------------------------------------------

NOUN_VERB = re.compile(r"[a-z]+\.[a-z]+(_[a-z]+)*").fullmatch


def meanings(struct: type[Struct]) -> set[str]:
    """Fields with a default that is not None where the default may stand for a stored value."""
    found = {
        f"{struct.__name__}.{field.name}"
        for field in structs.fields(struct)
        if field.default_factory is not msgspec.NODEFAULT or field.default not in (msgspec.NODEFAULT, None)
    }
    return found if struct.__struct_config__.omit_defaults else set()


def within(struct: type[Struct]) -> set[type[Struct]]:
    """The Struct and those its fields hold."""

    def walk(kind: types.Type) -> Iterator[type[Struct]]:
        if isinstance(kind, types.StructType) and kind.cls not in found:
            found.add(kind.cls)
            for field in kind.fields:
                yield from walk(field.type)
        for attribute in ("type", "item_type", "value_type"):
            if isinstance(inner := getattr(kind, attribute, None), types.Type):
                yield from walk(inner)
        for inner in getattr(kind, "types", ()):
            yield from walk(inner)

    found: set[type[Struct]] = set()
    list(walk(types.type_info(struct)))
    return found


EVENTS = [spec for aggregate in AGGREGATES for spec in aggregate.events.values()]


def test_a_field_that_an_event_leaves_out_means_null_and_nothing_else() -> None:
    """A default that says something would change what old bytes mean on the day somebody changes it."""
    assert {field for spec in EVENTS for struct in within(spec.struct) for field in meanings(struct)} == set()


class Meaningful(Event, frozen=True):
    """An event as none may be."""

    level: int = 3
    name: str | None = None


def test_a_default_with_a_meaning_is_found() -> None:
    assert meanings(Meaningful) == {"Meaningful.level"}


def doubles(names: Iterable[Any]) -> list[Any]:
    return [name for name, count in Counter(names).items() if count > 1]


def test_every_event_is_named_noun_dot_verb_and_registered_once() -> None:
    assert [spec.name for spec in EVENTS if not NOUN_VERB(spec.name)] == []
    assert doubles((spec.name, spec.schema) for spec in EVENTS) == []
    assert doubles(spec.struct for spec in EVENTS) == []
    own = {(aggregate.noun, spec.name) for aggregate in AGGREGATES for spec in aggregate.events.values()}
    # What the bus leaves on the log by itself speaks of commands, whatever they were about.
    foreign = {name for noun, name in own if name.partition(".")[0] != noun}
    assert foreign == {"command.unchanged", "command.refused", "refusals.suppressed"}


def test_every_command_and_query_is_named_noun_dot_verb_and_registered_once() -> None:
    commands = [spec for aggregate in AGGREGATES for spec in aggregate.commands]
    names = [spec.name for spec in (*commands, *QUERIES)]
    assert [name for name in names if not NOUN_VERB(name)] == []
    assert doubles(names) == []
    assert doubles(spec.struct for spec in commands) == []
    assert [spec.name for spec in commands if spec.name.partition(".")[0] != spec.noun] == []


def test_a_bad_name_and_a_double_are_found() -> None:
    assert [name for name in ("task", "Task.submit", "task.submit.now", "task.re-submit") if NOUN_VERB(name)] == []
    assert doubles(["task.submit", "task.cancel", "task.submit"]) == ["task.submit"]


CLIENT = list(registry(QUERIES).client_commands())


@pytest.mark.parametrize("spec", CLIENT, ids=lambda spec: spec.name)
def test_every_client_command_has_a_route_a_docstring_and_a_schema(spec: CommandSpec) -> None:
    assert spec.route is not None, "a command that nobody can call"
    assert spec.doc, "a command that nobody understands"
    fields = {field.name for field in structs.fields(spec.struct)}
    assert set(re.findall(r"{(\w+)}", spec.route.path)) <= fields
    schema = msgspec.json.schema(spec.struct)
    assert schema["$defs"][spec.struct.__name__]["additionalProperties"] is False, "a misspelt field would be ignored"
    assert json.loads(json.dumps(schema)) == schema


def test_no_two_actions_share_a_route_and_none_is_undocumented() -> None:
    routes = [(spec.route.method, re.sub(r"{\w+}", "{}", spec.route.path)) for spec in CLIENT if spec.route]
    routes += [(spec.route.method, re.sub(r"{\w+}", "{}", spec.route.path)) for spec in QUERIES]
    assert doubles(routes) == []
    assert [spec.name for spec in QUERIES if not spec.doc] == []


# --- words that must not stand in a file ------------------------------------------------------------------------------


def calls(tree: ast.AST, module: str, function: str) -> list[ast.Call]:
    """Calls of `module.function`, and of `function` imported from it."""
    bare = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
        if alias.name == function
    }
    names = {f"{module}.{function}", *bare}
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in names]


def test_nothing_waits_with_wait_for() -> None:
    """Python 3.11's loses a cancellation that comes together with the result (gh-86296): use asyncio.timeout."""
    paths = python_files("core", "adapters", "projections", "entrypoints")
    assert {name_of(path) for path in paths if calls(tree_of(path), "asyncio", "wait_for")} <= WAIT_FOR


@pytest.mark.parametrize(
    "source", ["import asyncio\nasyncio.wait_for(x, 1)", "from asyncio import wait_for\nwait_for(x, 1)"]
)
def test_a_wait_for_is_found(source: str) -> None:
    assert len(calls(ast.parse(source), "asyncio", "wait_for")) == 1
    assert calls(ast.parse("gate.wait_for(1, 2)"), "asyncio", "wait_for") == []


def written_files() -> list[Path]:
    """Everything of the repository that people write, by suffix; evidence is what machines wrote."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    kinds = {".py", ".md", ".toml", ".sh", ".yaml", ".yml", *WEB}
    inside = [path for folder in folders for path in folder.rglob("*") if path.suffix in kinds]
    return [
        path for path in (*inside, *ROOT.glob("*.*"), ROOT / "Makefile") if path.is_file() and path.stem != "evidence"
    ]


PROMISES = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")


def test_no_file_holds_a_promise_to_finish_it_later() -> None:
    assert [name_of(path) for path in written_files() if PROMISES.search(path.read_text("utf-8", "replace"))] == []
    assert PROMISES.search("# TO" + "DO: later")


def too_long(lengths: Mapping[str, int]) -> dict[str, int]:
    return {name: lines for name, lines in lengths.items() if lines > LONGER.get(name, LINES_MAX)}


def test_no_source_is_longer_than_400_lines() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in (".py", *WEB)]
    assert too_long({name_of(path): len(path.read_text("utf-8").splitlines()) for path in files}) == {}
    assert too_long({"core/new.py": LINES_MAX + 1}) == {"core/new.py": LINES_MAX + 1}


# --- tests that wait --------------------------------------------------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef


def idle_sleeps(tree: ast.AST) -> list[ast.Call]:
    """Sleeps for a fixed time. A turn of the loop (0) and a loop that ends at a deadline are none."""
    sleeps = [*calls(tree, "time", "sleep"), *calls(tree, "asyncio", "sleep")]
    polls = {id(node) for function in ast.walk(tree) if isinstance(function, Function) for node in _polls(function)}
    return [node for node in sleeps if not (_is_zero(node.args[0]) or id(node) in polls)]


def _is_zero(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == 0


def _polls(function: Function) -> Iterator[ast.AST]:
    """What stands in the while loops of a function that knows a deadline."""
    words = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    if words & {"monotonic", "timeout", "time"}:
        for node in ast.walk(function):
            if isinstance(node, ast.While):
                yield from ast.walk(node)


def test_no_test_waits_by_sleeping() -> None:
    """Acceptance scripts and benches measure real time; everything else waits for what it waits for."""
    paths = [path for path in python_files("tests") if path.relative_to(ROOT).parts[1] not in ("accept", "bench")]
    found = Counter(name_of(path) for path in paths for _ in idle_sleeps(tree_of(path)))
    assert {name: n for name, n in found.items() if name not in SLEEPERS and n > SLEEPS.get(name, 0)} == {}


def test_a_sleep_is_found_and_a_poll_is_not() -> None:
    poll = "def until():\n    end = time.monotonic() + 1\n    while time.monotonic() < end:\n        time.sleep(0.01)"
    assert idle_sleeps(ast.parse(f"import time\n{poll}")) == []
    assert idle_sleeps(ast.parse("import asyncio\nasync def f():\n    await asyncio.sleep(0)")) == []
    assert len(idle_sleeps(ast.parse("import time\ndef test():\n    time.sleep(0.2)"))) == 1
    assert len(idle_sleeps(ast.parse("from time import sleep\nwhile True:\n    sleep(1)"))) == 1
