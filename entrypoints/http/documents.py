"""The documents and their pages, without a key: they hold no data. Written at the first request, and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import orjson
from sanic import HTTPResponse, Request, Sanic

from entrypoints.http.pages import HEADERS, TYPES, WEB
from entrypoints.schemas.documents import STYLE, Documents

READ = ["GET", "HEAD"]


def add_documents(app: Sanic[Any, Any], documents: Documents) -> None:
    """/openapi.json, /openrpc.json, /asyncapi.json, and the pages under /docs."""

    def add(path: str, media: str, write: Callable[[], str | bytes]) -> None:
        app.add_route(_handler(media, write), path, methods=READ, name=f"document_{path.strip('/')}".translate(_NAME))

    for name in documents.NAMES:
        add(f"/{name}.json", "application/json", partial(_json, documents, name))
    for path in documents.PAGES:
        add(path, TYPES[".html"], partial(documents.page, path))
    add("/docs/style.css", TYPES[".css"], STYLE.read_bytes)
    add("/docs/favicon.svg", TYPES[".svg"], (WEB / "favicon.svg").read_bytes)


def _json(documents: Documents, name: str) -> bytes:
    return orjson.dumps(documents.document(name))


_NAME = str.maketrans("/.", "__")


def _handler(media: str, write: Callable[[], str | bytes]) -> Any:
    @cache
    def written() -> tuple[bytes, dict[str, str]]:
        text = write()
        body = text.encode() if isinstance(text, str) else text
        return body, HEADERS | {"ETag": f'"{hashlib.sha256(body).hexdigest()[:16]}"'}

    async def answer(request: Request) -> HTTPResponse:
        body, headers = written()
        if request.headers.get("if-none-match") == headers["ETag"]:
            return HTTPResponse(b"", 304, headers)
        return HTTPResponse(body, 200, headers, media)

    return answer
