"""One route per action of the registry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import orjson
from msgspec import Struct
from sanic import HTTPResponse, Request, Sanic

from core.execution import escape
from core.kernel.errors import HivebusError, TooLarge, Unprocessable
from core.kernel.registry import CommandSpec, QuerySpec, Registry
from core.services.dispatch import BATCH_MAX, WAIT_S_MAX, Dispatcher, Envelope, Look
from entrypoints.decode import envelope_from, from_json, from_query, raw_items
from entrypoints.http.counted import Handler, counted
from entrypoints.http.door import Door, check_media, media_of

JSON = "application/json"
NDJSON = "application/x-ndjson"

_PARAMETER = re.compile(r"{(\w+)}")
_POSITION = re.compile(r"[0-9]{1,18}").fullmatch
READ = ["GET", "HEAD"]


def add_routes(app: Sanic[Any, Any], registry: Registry, dispatcher: Dispatcher, door: Door) -> None:
    """Put every client command and every query where it says that it answers."""
    for spec in registry.client_commands():
        if spec.route is not None:
            handler = command_handler(spec, dispatcher, door)
            app.add_route(
                handler, _sanic_path(spec.route.path), methods=[spec.route.method], name=_name(spec.name), unquote=True
            )
    add_queries(app, registry, dispatcher, door)


def add_queries(app: Sanic[Any, Any], registry: Registry, dispatcher: Dispatcher, door: Door) -> None:
    """Put every query where it says that it answers: what only reads."""
    for query in registry.queries.values():
        handler = query_handler(query, dispatcher, door)
        app.add_route(handler, _sanic_path(query.route.path), methods=READ, name=_name(query.name), unquote=True)


def command_handler(spec: CommandSpec, dispatcher: Dispatcher, door: Door) -> Handler:
    """The handler of a command; one that creates takes batches too."""
    assert spec.route is not None
    status, struct, has_body = spec.route.status, spec.struct, spec.route.method != "DELETE"
    location = f"/api/{spec.noun}s/" if spec.batched else None

    async def handle(request: Request, **fields: Any) -> HTTPResponse:
        principal = door.admit(request)
        values = arguments_of(request)
        envelope = envelope_of(request, values)
        if not has_body:
            command = from_query(struct, values | fields)
        else:
            refuse_unknown(values)
            check_media(request, JSON, NDJSON) if spec.batched else check_media(request, JSON)
            if spec.batched and _is_batch(request):
                items = await dispatcher.batch(batch_of(struct, request), principal, envelope)
                return json_response(items, status)
            command = from_json(struct, request.body, fields)
        answer = await dispatcher.command(command, principal, envelope)
        headers = {"Location": f"{location}{answer[f'{spec.noun}_id']}"} if location else {}
        return json_response(answer, status, headers)

    return counted(handle, spec.name)


def query_handler(spec: QuerySpec, dispatcher: Dispatcher, door: Door) -> Handler:
    """The handler of a query."""

    async def handle(request: Request, **fields: Any) -> HTTPResponse:
        principal = door.admit(request)
        del principal  # every key may read
        values = arguments_of(request)
        look = look_of(values)
        query = from_query(spec.struct, values | fields)
        answer = await dispatcher.query(spec, query, look)
        return json_response(answer, spec.route.status)

    return counted(handle, spec.name)


class Answer(HTTPResponse):
    """JSON of ours: names and values of its headers are visible ASCII, so nothing has to be taken out of them again."""

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        """Names and values as bytes."""
        self.headers.setdefault("content-type", self.content_type)
        return ((name.encode("ascii"), str(value).encode("ascii")) for name, value in self.headers.items())


def json_response(answer: Mapping[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> HTTPResponse:
    """JSON with the position that it speaks of."""
    headers = headers or {}
    if "position" in answer:
        headers["Hivebus-Position"] = str(answer["position"])
    try:
        body = orjson.dumps(answer)
    except TypeError:
        # An integer beyond 64 bits in a task's result: rare, and no reason to hide the rest.
        body = msgspec.json.encode(answer)
    return Answer(body, status, headers, JSON)


def arguments_of(request: Request) -> dict[str, str]:
    """The query string. Raises Unprocessable for a parameter that is given twice: nobody could say which one counts."""
    if not request.query_string:
        return {}
    arguments = request.get_args(keep_blank_values=True)
    for name, texts in arguments.items():
        if len(texts) > 1:
            raise Unprocessable(
                f"{name} is given {len(texts)} times.", pointer=f"/{escape(name)}", remedy="Give it once."
            )
    return {name: texts[0] for name, texts in arguments.items()}


def refuse_unknown(values: Mapping[str, str]) -> None:
    """Raises Unprocessable for what is left in the query string of a call that takes a body."""
    for name in values:
        raise Unprocessable(
            f"There is no query parameter {name}.",
            code="unknown_field",
            pointer=f"/{escape(name)}",
            remedy="Leave it out, or check its spelling; a command's fields stand in the body.",
        )


def envelope_of(request: Request, values: dict[str, str]) -> Envelope:
    """Idempotency-Key, X-Correlation-Id, and how long to wait for the views (`?wait=recorded`, `Prefer: wait=N`).

    Takes its own parameters out of `values`.
    """
    headers = request.headers
    return envelope_from(headers.get("idempotency-key"), headers.get("x-correlation-id"), _wait_of(request, values))


def _wait_of(request: Request, values: dict[str, str]) -> float | None:
    wait = values.pop("wait", None)
    if wait == "recorded":
        return WAIT_S_MAX
    if wait is not None:
        raise Unprocessable(f"wait={wait} is not known.", pointer="/wait", remedy="Use wait=recorded.")
    prefer = request.headers.get("prefer")
    if prefer is None:
        return None
    match = re.search(r"\bwait=(\d{1,6})\b", prefer)
    return min(float(match[1]), WAIT_S_MAX) if match else None


def look_of(values: dict[str, str]) -> Look:
    """`?at=` and `?min_position=`, taken out of `values`."""
    minimum = values.pop("min_position", "0")
    if not _POSITION(minimum):
        raise Unprocessable(
            "min_position is not a position.", pointer="/min_position", remedy="Give at most 18 digits."
        )
    at = values.pop("at", None)
    if at is not None and at.isdigit() and not _POSITION(at):
        raise Unprocessable("at is not a position.", pointer="/at", remedy="Give at most 18 of the digits 0 to 9.")
    return Look(at=at, min_position=int(minimum))


# --- batches ----------------------------------------------------------------------------------------------------------


def _is_batch(request: Request) -> bool:
    return media_of(request) == NDJSON or request.body.lstrip()[:1] == b"["


def batch_of(struct: type[Struct], request: Request) -> list[Struct | HivebusError]:
    """The items of a JSON array or of JSON lines; an item that does not fit is its own error."""
    if media_of(request) == NDJSON:
        raws: list[Any] = [line for line in request.body.split(b"\n") if line.strip()]
    else:
        raws = raw_items(request.body)
    if not raws:
        raise Unprocessable("The batch holds no item.", code="empty_batch", pointer="", remedy="Send at least one.")
    if len(raws) > BATCH_MAX:
        raise TooLarge(f"A batch of {len(raws)} items; {BATCH_MAX} is the most.", remedy="Cut it into smaller batches.")
    return [_item(struct, bytes(raw)) for raw in raws]


def _item(struct: type[Struct], raw: bytes) -> Struct | HivebusError:
    try:
        return from_json(struct, raw)
    except HivebusError as error:
        return error


def _sanic_path(path: str) -> str:
    return _PARAMETER.sub(r"<\1:str>", path)


def _name(action: str) -> str:
    return action.replace(".", "_")
