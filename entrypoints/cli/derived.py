"""Verbs that nobody wrote: one per client command of the registry, one per line of the table of queries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import click
import orjson

from entrypoints.cli.failures import BadInput, Exit
from entrypoints.cli.http import Request, query_string
from entrypoints.cli.output import emit, fields, table
from entrypoints.cli.queries import QueryVerb
from entrypoints.cli.verb import Verb, client, json_option

if TYPE_CHECKING:
    from core.kernel.registry import CommandSpec, Route

JSON = "application/json"
AT_HELP = "As of then: a position of the log, or an RFC 3339 time."


def query_verb(query: QueryVerb) -> Verb:
    """The command that reads."""
    parameters: list[click.Parameter] = []
    if query.target is not None:
        parameters.append(click.Argument([query.target], metavar=query.target.upper()))
    for option in query.options:
        name = f"--{option.field.replace('_', '-')}"
        parameters.append(click.Option([name, option.field], type=option.kind, help=option.help))
    parameters.append(click.Option(["--at"], metavar="POSITION|TIME", help=AT_HELP))
    parameters.append(json_option())

    def read(as_json: bool, **given: Any) -> Exit:
        target = given.pop(query.target) if query.target else ""
        path = filled(query.path, {query.target or "": target})
        answer = client().get(path, given)
        if as_json:
            emit(answer.body)
        else:
            show(query, answer.json())
        return Exit.OK

    verb = query.name.partition(".")[2]
    return Verb(verb, params=parameters, callback=read, help=query.doc, examples=query.examples)


def show(query: QueryVerb, document: dict[str, Any]) -> None:
    """A query's answer for people."""
    if query.rows is None:
        fields(document)
        return
    rows = document[query.rows]
    table(query.columns, rows)
    page = document.get("pagination")
    if page and page["has_more"]:
        shown = page["offset"] + len(rows)
        click.echo(f"{len(rows)} of {page['total']}; go on with --offset {shown}", err=True)


def command_verb(spec: CommandSpec) -> Verb:
    """The command that writes; a repeat of its request by the client is the same command to the server."""
    from entrypoints.cli.options import options_of, values_of  # noqa: PLC0415 - queries do without

    route, struct, target = spec.route, spec.struct, spec.target or spec.copies
    assert route is not None, "only commands with a route become verbs"
    parameters = options_of(struct, target=target)

    def write(as_json: bool, **given: Any) -> Exit:
        answer = client().call(write_request(route, values_of(struct, given)))
        if as_json:
            emit(answer.body)
        else:
            fields(answer.json())
        return Exit.OK

    verb = spec.name.partition(".")[2]
    return Verb(
        verb,
        params=[*parameters, json_option()],
        callback=write,
        help=spec.doc,
        examples=[example_of(spec, parameters)],
    )


def example_of(spec: CommandSpec, parameters: list[click.Parameter]) -> str:
    """A call with everything that is required."""
    words = ["hivebus", *spec.name.split(".")]
    for parameter in parameters:
        if isinstance(parameter, click.Argument):
            words.append(parameter.human_readable_name.upper())
        elif parameter.required:
            words += [parameter.opts[0], (parameter.name or "").upper()]
    return " ".join(words)


def write_request(route: Route, values: dict[str, Any]) -> Request:
    """A command as a request: path fields in the path, the rest in the body, or in the query of a DELETE."""
    names = set(re.findall(r"{(\w+)}", route.path))
    path = filled(route.path, values)
    rest = {name: value for name, value in values.items() if name not in names}
    headers = {"Idempotency-Key": str(uuid4())}
    if route.method == "DELETE":
        return Request(route.method, path + query_string(rest), None, headers)
    return Request(route.method, path, orjson.dumps(rest), headers | {"Content-Type": JSON})


def filled(path: str, values: dict[str, Any]) -> str:
    """A route's path with its `{fields}` filled in; BadInput for what would lead to another path."""

    def fill(match: re.Match[str]) -> str:
        value = str(values[match[1]])
        if value.strip(".") == "":
            raise BadInput(f"{value!r} is no {match[1]}.")
        return quote(value, safe="")

    return re.sub(r"{(\w+)}", fill, path)
