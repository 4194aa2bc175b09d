"""Large values: PUT and GET /api/blobs/{sha256}, streamed, named by their hash."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sanic import HTTPResponse, Request, Sanic

from core.blobs import StreamingBlobs
from core.execution import BLOB_MAX_BYTES
from core.kernel.errors import NotFound, TooLarge, Unprocessable
from entrypoints.http.door import Door, check_media
from entrypoints.http.rest import READ, json_response

OCTETS = "application/octet-stream"

_SHA256 = re.compile(r"[0-9a-f]{64}").fullmatch


def add_blobs(app: Sanic[Any, Any], blobs: StreamingBlobs, door: Door, refuse: Callable[[], None]) -> None:
    """Both directions of the blob store; `refuse` raises while nothing may grow."""

    async def put(request: Request, sha256: str) -> HTTPResponse:
        door.admit(request, hosts=True)
        check_media(request, OCTETS)
        refuse()
        if not _SHA256(sha256):
            raise Unprocessable(
                "A blob is named by its SHA-256 in lower-case hex.",
                pointer="/sha256",
                remedy="Hash it: sha256sum FILE.",
            )
        announced = request.headers.get("content-length", "0")
        if not announced.isascii() or not announced.isdigit() or int(announced[:20]) > BLOB_MAX_BYTES:
            raise TooLarge(f"A blob holds at most {BLOB_MAX_BYTES} bytes.", remedy="Cut the value into several blobs.")
        async with blobs.open_put(sha256, max_bytes=BLOB_MAX_BYTES) as writer:
            stream: Any = request.stream  # sanic types it as a base without `read`
            while (chunk := await stream.read()) is not None:
                await writer.write(chunk)
            size = await writer.commit()
        return json_response({"sha256": sha256, "size": size}, 201)

    async def get(request: Request, sha256: str) -> HTTPResponse | None:
        door.admit(request, hosts=True)
        chunks = await blobs.open_get(sha256) if _SHA256(sha256) else None
        if chunks is None:
            raise NotFound(
                f"There is no blob {sha256}.",
                code="unknown_blob",
                remedy="It was erased, or never stored; PUT it first.",
            )
        size = await blobs.size(sha256)
        if request.method == "HEAD":
            return HTTPResponse(None, 200, {"Content-Length": str(size)}, OCTETS)
        response = await request.respond(content_type=OCTETS, headers={"Content-Length": str(size)} if size else {})
        async for chunk in chunks:
            await response.send(chunk)
        await response.eof()
        return None

    app.add_route(put, "/api/blobs/<sha256:str>", methods=["PUT"], name="blob_put", stream=True)
    app.add_route(get, "/api/blobs/<sha256:str>", methods=READ, name="blob_get")
