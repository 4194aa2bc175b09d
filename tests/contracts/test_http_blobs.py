"""Blobs over HTTP: against the real program, with the key of agent hosts."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.blobs import http as http_blobs
from adapters.blobs.http import HttpBlobs
from core.kernel.errors import StartRefused, TooLarge, Unauthenticated, Unavailable
from tests.contracts.blobs import BlobsContract, name_of
from tests.entrypoints.program import RunningProgram


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProgram]:
    with RunningProgram(tmp_path_factory.mktemp("hive") / "data") as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a client that pauses hardly at all between its tries."""
    monkeypatch.setattr(http_blobs, "PAUSE_S", 0.001)


class TestHttpBlobs(BlobsContract):
    @pytest.fixture
    def blobs(self, program: RunningProgram) -> HttpBlobs:
        return HttpBlobs(program.url, (program.root / "host.key").read_text().strip())

    async def test_what_is_put_lies_in_the_servers_store(self, blobs: HttpBlobs, program: RunningProgram) -> None:
        name = await blobs.put(b"from afar")
        assert (program.root / "blobs" / name[:2] / name).read_bytes() == b"from afar"

    async def test_a_wrong_key_is_said_at_once(self, program: RunningProgram) -> None:
        with pytest.raises(Unauthenticated):
            await HttpBlobs(program.url, "hive_0_wrong").put(b"x")

    async def test_what_is_too_large_is_not_sent(self, blobs: HttpBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_blobs, "BLOB_MAX_BYTES", 3)
        with pytest.raises(TooLarge):
            await blobs.put(b"1234")


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_does_not_answer_is_tried_again_and_then_unavailable() -> None:
    with pytest.raises(Unavailable) as error:
        await HttpBlobs("http://127.0.0.1:1", "key").get("0" * 64)
    assert error.value.code == "blobs_unavailable"
    assert "127.0.0.1:1" in error.value.sentence


class Answers(http.server.BaseHTTPRequestHandler):
    """A server that is busy twice, and then gives bytes."""

    statuses: list[int]
    content: bytes

    def do_GET(self) -> None:
        self.send_response(self.statuses.pop(0) if self.statuses else 200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        return


@pytest.fixture
def server() -> Iterator[str]:
    Answers.statuses, Answers.content = [503, 503], b"true"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_is_busy_is_asked_again(server: str) -> None:
    assert await HttpBlobs(server, "key").get(name_of(b"true")) == b"true"
    assert Answers.statuses == []


@pytest.mark.usefixtures("impatient")
async def test_bytes_that_do_not_hash_to_their_name_are_not_returned(server: str) -> None:
    assert await HttpBlobs(server, "key").get(hashlib.sha256(b"other").hexdigest()) is None


@pytest.mark.parametrize("url", ["nats://host", "http://", "http://host:0", "http://host:x", "host:80"])
def test_what_is_no_address_is_refused_at_start(url: str, tmp_path: Path) -> None:
    with pytest.raises(StartRefused):
        HttpBlobs(url, "key")
