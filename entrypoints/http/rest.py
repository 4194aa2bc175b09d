"""One route per action of the registry."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import orjson
from msgspec import Struct
from sanic import HTTPResponse, Request, Sanic

from adapters.telemetry import REQUESTS
from core.kernel.errors import HivebusError, Invalid, TooLarge, Unprocessable
from core.kernel.registry import CommandSpec, QuerySpec, Registry
from core.services.dispatch import BATCH_MAX, WAIT_S_MAX, Dispatcher, Envelope, Look
from entrypoints.http.decode import from_json, from_query, malformed
from entrypoints.http.door import Door, check_media

JSON = "application/json"
NDJSON = "application/x-ndjson"

_PARAMETER = re.compile(r"{(\w+)}")
_TOKEN = re.compile(r"[A-Za-z0-9._:-]{1,64}").fullmatch
_KEY_MAX = 200
_LOOK_KEYS = frozenset({"at", "min_position", "wait"})

Handler = Callable[..., Coroutine[Any, Any, HTTPResponse]]


def add_routes(app: Sanic[Any, Any], registry: Registry, dispatcher: Dispatcher, door: Door) -> None:
    """Put every client command and every query where it says that it answers."""
    for spec in registry.client_commands():
        if spec.route is not None:
            handler = command_handler(spec, dispatcher, door)
            app.add_route(handler, _sanic_path(spec.route.path), methods=[spec.route.method], name=_name(spec.name))
    for query in registry.queries.values():
        handler = query_handler(query, dispatcher, door)
        app.add_route(handler, _sanic_path(query.route.path), methods=[query.route.method], name=_name(query.name))


def command_handler(spec: CommandSpec, dispatcher: Dispatcher, door: Door) -> Handler:
    """The handler of a command; one that creates takes batches too."""
    assert spec.route is not None
    status, struct, has_body = spec.route.status, spec.struct, spec.route.method != "DELETE"
    location = spec.route.path + "/" if spec.creates else None
    counter = REQUESTS.labels(spec.name)

    async def handle(request: Request, **fields: Any) -> HTTPResponse:
        principal = door.admit(request)
        envelope = envelope_of(request)
        if not has_body:
            values = {key: value for key, (value, *_) in request.args.items() if key not in _LOOK_KEYS}
            command = from_query(struct, values | fields)
        else:
            check_media(request, JSON, NDJSON) if spec.creates else check_media(request, JSON)
            if spec.creates and _is_batch(request):
                answer = await dispatcher.batch(batch_of(struct, request), principal, envelope)
                counter.inc()
                return json_response(answer, status)
            command = from_json(struct, request.body, fields)
        answer = await dispatcher.command(command, principal, envelope)
        counter.inc()
        headers = {"Location": f"{location}{answer[f'{spec.noun}_id']}"} if location else {}
        return json_response(answer, status, headers)

    return handle


def query_handler(spec: QuerySpec, dispatcher: Dispatcher, door: Door) -> Handler:
    """The handler of a query."""
    counter = REQUESTS.labels(spec.name)

    async def handle(request: Request, **fields: Any) -> HTTPResponse:
        principal = door.admit(request)
        del principal  # every key may read
        values = {key: value for key, (value, *_) in request.args.items() if key not in _LOOK_KEYS}
        query = from_query(spec.struct, values | fields)
        answer = await dispatcher.query(spec, query, look_of(request))
        counter.inc()
        return json_response(answer, spec.route.status)

    return handle


def json_response(answer: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> HTTPResponse:
    """JSON with the position that it speaks of."""
    headers = headers or {}
    if "position" in answer:
        headers["Hivebus-Position"] = str(answer["position"])
    return HTTPResponse(orjson.dumps(answer), status, headers, JSON)


def envelope_of(request: Request) -> Envelope:
    """Idempotency-Key, X-Correlation-Id, and how long to wait for the views (`?wait=recorded`, `Prefer: wait=N`)."""
    headers = request.headers
    key = headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= _KEY_MAX:
        raise Invalid(f"An Idempotency-Key has 1 to {_KEY_MAX} characters.", remedy="Use a UUID.")
    correlation_id = headers.get("x-correlation-id")
    if correlation_id is not None and not _TOKEN(correlation_id):
        raise Invalid(
            "X-Correlation-Id holds other than letters, digits and ._:-, or more than 64.", remedy="Use a UUID."
        )
    return Envelope(idempotency_key=key, correlation_id=correlation_id, wait_s=_wait_of(request))


def _wait_of(request: Request) -> float | None:
    if request.query_string:
        wait = request.args.get("wait")
        if wait == "recorded":
            return WAIT_S_MAX
        if wait is not None:
            raise Unprocessable(f"wait={wait} is not known.", pointer="/wait", remedy="Use wait=recorded.")
    prefer = request.headers.get("prefer")
    if prefer is None:
        return None
    match = re.search(r"\bwait=(\d{1,6})\b", prefer)
    return min(float(match[1]), WAIT_S_MAX) if match else None


def look_of(request: Request) -> Look:
    """`?at=` and `?min_position=`."""
    if not request.query_string:
        return Look()
    minimum = request.args.get("min_position", "0")
    if not minimum.isdigit() or len(minimum) > 18:
        raise Unprocessable("min_position is not a position.", pointer="/min_position", remedy="Give digits.")
    at = request.args.get("at")
    if at is not None and at.isdigit() and len(at) > 18:
        raise Unprocessable("at is larger than any position.", pointer="/at", remedy="Give a smaller number.")
    return Look(at=at, min_position=int(minimum))


# --- batches ----------------------------------------------------------------------------------------------------------


def _is_batch(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith(NDJSON) or request.body.lstrip()[:1] == b"["


def batch_of(struct: type[Struct], request: Request) -> list[Struct | HivebusError]:
    """The items of a JSON array or of JSON lines; an item that does not fit is its own error."""
    if request.headers.get("content-type", "").startswith(NDJSON):
        raws: list[Any] = [line for line in request.body.split(b"\n") if line.strip()]
    else:
        try:
            raws = msgspec.json.decode(request.body, type=list[msgspec.Raw])
        except msgspec.DecodeError as error:
            raise malformed(str(error)) from error
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
