"""The OpenAPI document: every route, every error code, examples that fit."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from sanic import Sanic

from core.actions import registry
from entrypoints.bootstrap import apps
from entrypoints.bootstrap.program import Program
from entrypoints.http.listener import make_app
from entrypoints.http.system import System
from entrypoints.schemas.declared import declared, documents
from entrypoints.schemas.examples import EXAMPLES
from entrypoints.schemas.faults import known
from entrypoints.schemas.operations import OTHERS
from projections.catalogue import QUERIES
from tests import documents as pages

DOCUMENT = documents("0.0.0").openapi

# What becomes of a task or of a host, and what only a start meets: no caller of the API gets these.
NOT_FOR_CALLERS = {
    "bad_arguments",
    "blob_mismatch",
    "blobs_unavailable",
    "broken_function",
    "log_commits_lost",
    "log_hole",
    "log_restore_refused",
    "no_answer",
    "no_leader",
    "not_overdue",
    "not_queued",
    "purge_refused",
    "purge_unanswered",
    "secret_exposed",
    "secret_unreadable",
    "stale_fence",
    "stale_term",
    "unavailable",
    "unknown_function",
    "unresolvable_reference",
}
# Other ways in have these, in documents of their own.
OF_OTHER_TRANSPORTS = {
    "already_subscribed",
    "batch_too_long",
    "invalid_handshake",
    "not_acceptable",
    "too_many",
    "too_many_subscriptions",
    "unknown_action",
    "unknown_command",
    "unknown_subscription",
    "upgrade_required",
}


OTHER_ROOMS = tuple(("entrypoints", room) for room in ("rpc", "cli", "a2a", "mcp"))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sanic[Any, Any]]:
    """The app of the REST listener, around nothing."""
    system: Any = System.__new__(System)
    nothing: Any = SimpleNamespace(refuse_growth=None)
    parts = dict.fromkeys(Program.__struct_fields__, nothing) | {"registry": registry(QUERIES), "system": system}
    monkeypatch.setattr(apps, "make_app", lambda name, first: make_app(f"{name}-documented", first=False))
    app = apps.api_app(cast("Program", SimpleNamespace(**parts)))
    yield app
    Sanic.unregister_app(app)


def test_every_route_is_in_the_document_and_the_other_way_round(app: Sanic[Any, Any]) -> None:
    routed = {
        (method, "/" + re.sub(r"<(\w+):str>", r"{\1}", route.path).strip("/"))
        for route in app.router.routes
        for method in route.methods
        if method != "HEAD"
    }
    documented = {
        (method.upper(), "/" + path.strip("/")) for path, methods in DOCUMENT["paths"].items() for method in methods
    }
    assert routed == documented


def made_codes() -> dict[str, set[str]]:
    """The codes that the source makes errors of, and of which classes."""
    kinds = {name: kind for name, kind in vars(pages.core.kernel.errors).items() if pages._is_error(kind)}
    kinds |= {name: kind for name, kind in vars(pages.problems).items() if pages._is_error(kind)}
    found: dict[str, set[str]] = {}
    for path in pages.sources():
        if path.relative_to(pages.ROOT).parts[:2] not in OTHER_ROOMS:
            for kind, code, _ in pages._made(ast.parse(path.read_text("utf-8")), kinds):
                found.setdefault(code, set()).add(kind)
    return found


def test_every_code_of_the_source_is_known_to_the_documents() -> None:
    made = {code for code, kinds in made_codes().items() if kinds != {"StartRefused"}}
    documented = known(declared().actions.values()) | {code for other in OTHERS for code in other.faults}
    filled_in = {code for code in made if "{" in code}
    assert made - filled_in - documented == (NOT_FOR_CALLERS | OF_OTHER_TRANSPORTS) & made - documented
    assert {"unknown_{noun}", "trimmed_{noun}"} <= filled_in


def test_a_code_that_a_command_declares_is_raised_as_the_class_that_it_says() -> None:
    made = made_codes()
    for spec in registry(QUERIES).client_commands():
        for code, kind in spec.faults.items():
            defaults = code == kind.default_code
            assert kind.__name__ in made.get(code, set()) or defaults, (spec.name, code)


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) & set(declared().actions)))
def test_an_example_is_what_can_be_sent_and_answered(name: str) -> None:
    action, example = declared().actions[name], EXAMPLES[name]
    assert isinstance(msgspec.convert(example.arguments, action.struct), action.struct)
    assert msgspec.convert(example.answer, action.answer) == example.answer


def test_every_reference_leads_somewhere() -> None:
    made = documents("0.0.0")

    def references(value: Any) -> Any:
        if isinstance(value, dict):
            yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    for name in made.NAMES:
        document = made.document(name)
        found = set(references(document))
        assert found, name
        for reference in found:
            place: Any = document
            for step in reference.removeprefix("#/").split("/"):
                assert step in place, (name, reference)
                place = place[step]
