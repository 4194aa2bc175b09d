from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner
from msgspec import Struct

import core.actions
from core.kernel.commit import Event
from core.kernel.registry import Aggregate, Context, Route
from entrypoints.cli.app import cli
from entrypoints.cli.derived import example_of
from entrypoints.cli.options import options_of, values_of
from entrypoints.cli.queries import QUERIES
from projections.catalogue import QUERIES as DECLARED


def every_command(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            assert found is not None
            yield from every_command(found, (*path, name))


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_every_help_page_renders_and_ends_with_an_example(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"], prog_name="hivebus")
    assert result.exit_code == 0, result.output
    examples = result.stdout.partition("\nExamples:\n")[2].splitlines()
    assert 1 <= len(examples) <= 3
    assert all("hivebus" in example for example in examples)
    assert "\x1b" not in result.stdout


def test_the_commands_that_users_know_are_there() -> None:
    assert {
        *[("up",), ("queue",), ("status",), ("verify",), ("env",), ("key",), ("key", "show"), ("log", "tail")],
        *[("task", verb) for verb in ("submit", "list", "show", "cancel", "watch")],
        *[("agent", verb) for verb in ("list", "show", "spawn", "retire")],
    } <= set(every_command())


def test_the_table_of_queries_says_what_the_catalogue_declares() -> None:
    declared = {
        spec.name: (spec.route.path, spec.doc, {field.name for field in msgspec.structs.fields(spec.struct)})
        for spec in DECLARED
    }
    known = {
        query.name: (
            query.path,
            query.doc,
            {option.field for option in query.options} | ({query.target} if query.target else set()),
        )
        for query in QUERIES
    }
    assert known == declared


def test_every_client_command_with_a_route_is_a_verb() -> None:
    routed = {spec.name for spec in core.actions.registry().client_commands() if spec.route is not None}
    assert routed <= {".".join(path) for path in every_command()}


class DimLamp(Struct, frozen=True, kw_only=True):
    """Dim a lamp.

    As far as it goes.
    """

    lamp_id: str
    level: int
    colour: str | None = None
    on: bool = True
    tags: list[str] = []
    labels: dict[str, str] = {}
    extra: dict[str, Any] = {}


@pytest.fixture
def lamp(monkeypatch: pytest.MonkeyPatch) -> Aggregate:
    aggregate = Aggregate("lamp", evolve=lambda state, event, moment: state)

    @aggregate.decides("lamp.dim", route=Route("POST", "/api/lamps/{lamp_id}/dim", 202))
    def dim(command: DimLamp, state: Any, context: Context) -> list[Event]:
        return []

    monkeypatch.setattr(core.actions, "AGGREGATES", (*core.actions.AGGREGATES, aggregate))
    return aggregate


def test_a_new_command_in_the_registry_is_a_verb_without_touching_the_command_line(lamp: Aggregate) -> None:
    assert "lamp" in CliRunner().invoke(cli, ["--help"]).stdout
    page = CliRunner().invoke(cli, ["lamp", "dim", "--help"], prog_name="hivebus").stdout
    assert "Usage: hivebus lamp dim [OPTIONS] LAMP_ID" in page
    assert "Dim a lamp." in page
    assert "As far as it goes." in page
    assert "--on / --no-on" in page
    assert "hivebus lamp dim LAMP_ID --level LEVEL" in page
    assert example_of(lamp.commands[0], options_of(DimLamp, target="lamp_id")) in page


def test_options_become_the_json_of_the_command_and_what_is_not_given_is_left_out() -> None:
    command = click.Command("dim", params=options_of(DimLamp, target="lamp_id"), callback=lambda **given: given)
    args = ["l1", "--level", "3", "--no-on", "--tags", "a", "--tags", "b", "--label", "k=7", "--extra", "n=7"]
    with command.make_context("dim", [*args, "--extra", "t=plain text"]) as ctx:
        assert values_of(DimLamp, ctx.params) == {
            "lamp_id": "l1",
            "level": 3,
            "on": False,
            "tags": ["a", "b"],
            "labels": {"k": "7"},
            "extra": {"n": 7, "t": "plain text"},
        }
    with command.make_context("dim", ["l1", "--level", "3"]) as ctx:
        assert values_of(DimLamp, ctx.params) == {"lamp_id": "l1", "level": 3}


@pytest.mark.parametrize(("words", "near"), [(["tsk", "list"], "task"), (["task", "lits"], "list")])
def test_a_misspelt_command_is_answered_with_what_looks_like_it(words: list[str], near: str) -> None:
    result = CliRunner().invoke(cli, words, prog_name="hivebus")
    assert result.exit_code == 2
    assert f"Did you mean {near}?" in result.stderr


def test_an_age_that_is_none_is_a_usage_error_before_anybody_is_asked() -> None:
    result = CliRunner().invoke(cli, ["log", "trim", "--older", "30x"], prog_name="hivebus")
    assert result.exit_code == 2
    assert "'30x' is no age. Give a number and s, m, h or d" in result.stderr
