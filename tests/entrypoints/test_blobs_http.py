"""PUT and GET /api/blobs/{sha256}: large values, streamed, named by their hash."""

import hashlib
from collections.abc import Iterator

import httpx
import pytest

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram

OCTETS = {"Content-Type": "application/octet-stream"}
MIB = 1024 * 1024


def put(program: RunningProgram, content: bytes | Iterator[bytes], name: str | None = None) -> httpx.Response:
    if name is None:
        assert isinstance(content, bytes)
        name = hashlib.sha256(content).hexdigest()
    return program.request("PUT", f"/api/blobs/{name}", content=content, headers=OCTETS)


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, MIB, MIB + 1, 5 * MIB])
def test_what_was_put_comes_back(program: RunningProgram, size: int) -> None:
    content = (b"0123456789abcde\n" * (size // 16 + 1))[:size]
    name = hashlib.sha256(content).hexdigest()
    response = put(program, content)
    assert (response.status_code, response.json()) == (201, {"sha256": name, "size": size})
    got = program.request("GET", f"/api/blobs/{name}")
    assert (got.status_code, got.content) == (200, content)
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-length"] == str(size)
    head = program.request("HEAD", f"/api/blobs/{name}")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
    assert put(program, content).status_code == 201


def test_a_chunked_upload_is_taken(program: RunningProgram) -> None:
    chunks = [bytes([number]) * 100_000 for number in range(20)]
    name = hashlib.sha256(b"".join(chunks)).hexdigest()
    assert put(program, iter(chunks), name).json()["size"] == 2_000_000
    assert program.request("GET", f"/api/blobs/{name}").content == b"".join(chunks)


def test_bytes_under_another_name_are_refused_and_leave_nothing(program: RunningProgram) -> None:
    name = hashlib.sha256(b"something else").hexdigest()
    problem(put(program, b"x" * MIB, name), 422, "blob_mismatch")
    problem(program.request("GET", f"/api/blobs/{name}"), 404, "unknown_blob")
    assert not list((program.root / "blobs" / name[:2]).glob("*"))


def test_a_blob_has_at_most_64_mebibytes(program: RunningProgram) -> None:
    chunk = bytes(MIB)
    digest = hashlib.sha256()
    for _ in range(65):
        digest.update(chunk)
    problem(put(program, (chunk for _ in range(65)), digest.hexdigest()), 413, "too_large")
    assert program.get("/api/queue")


@pytest.mark.parametrize(
    "name", ["x", "0" * 63, "0" * 65, "A" * 64, "..%2f..%2fadmin.key", "%00" * 64, "0" * 63 + "%0a"]
)
def test_a_name_that_is_no_hash_is_refused(program: RunningProgram, name: str) -> None:
    problem(put(program, b"x", name), 422, "invalid_field", "/sha256")
    problem(program.request("GET", f"/api/blobs/{name}"), 404, "unknown_blob")


def test_a_blob_is_no_form(program: RunningProgram) -> None:
    name = hashlib.sha256(b"x").hexdigest()
    for media in ("text/plain", "application/json", ""):
        response = program.request("PUT", f"/api/blobs/{name}", content=b"x", headers={"Content-Type": media})
        problem(response, 415, "unsupported_media_type")


def test_a_damaged_blob_is_not_returned(program: RunningProgram) -> None:
    name = put(program, b"to be damaged").json()["sha256"]
    (program.root / "blobs" / name[:2] / name).write_bytes(b"to be DAMAGED")
    problem(program.request("GET", f"/api/blobs/{name}"), 404, "unknown_blob")
    assert put(program, b"to be damaged").status_code == 201
    assert program.request("GET", f"/api/blobs/{name}").content == b"to be damaged"
