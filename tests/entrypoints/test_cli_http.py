from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from entrypoints.cli.failures import BadInput, Refusal, Unreachable
from entrypoints.cli.http import Client, Request
from entrypoints.cli.place import Place, locate
from tests.entrypoints.cli_server import Hive, Server, as_json, busy, dies

STATUS = Request("GET", "/api/status")


class Time:
    """A clock that only sleeping moves; `at` runs something once so much time has passed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.at: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        while self.at and self.at[0][0] <= self.now:
            self.at.pop(0)[1]()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def hive() -> Hive:
    return Hive()


@pytest.fixture
def server(hive: Hive) -> Iterator[Server]:
    server = Server(hive)
    yield server
    server.stop()


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def client(server: Server, time: Time, notes: list[str]) -> Iterator[Client]:
    client = Client(
        place=lambda: Place(server.url, "hive_test_secret"),
        note=notes.append,
        monotonic=time.monotonic,
        sleep=time.sleep,
    )
    yield client
    client.close()


def test_a_server_that_was_never_there_is_unreachable_at_once(server: Server, time: Time, client: Client) -> None:
    server.stop()
    with pytest.raises(Unreachable) as caught:
        client.call(STATUS)
    assert caught.value.remedy == "start it: hivebus up (or make run)"
    assert time.now == 0


def test_a_dropped_connection_is_made_again_without_a_word(hive: Hive, client: Client, notes: list[str]) -> None:
    client.call(STATUS)
    hive.script.append(dies)
    assert client.call(STATUS).status == 200
    assert len(hive.seen) == 3
    assert notes == []


def test_a_server_that_was_there_gets_a_minute_to_come_back_even_on_another_port(time: Time, notes: list[str]) -> None:
    servers = [Server(Hive())]
    client = Client(
        place=lambda: Place(servers[-1].url, None), note=notes.append, monotonic=time.monotonic, sleep=time.sleep
    )
    client.call(STATUS)
    servers[0].stop()
    client.close()
    time.at.append((30.0, lambda: servers.append(Server(Hive()))))
    assert client.call(STATUS).status == 200
    assert 30 <= time.now < 33
    assert notes == ["The server does not answer; trying again for up to 60 s.", "The server answers again."]
    client.close()
    servers[1].stop()


def test_after_a_minute_the_server_is_given_up(time: Time) -> None:
    server = Server(Hive())
    client = Client(place=lambda: Place(server.url, None), monotonic=time.monotonic, sleep=time.sleep)
    client.call(STATUS)
    server.stop()
    client.close()
    with pytest.raises(Unreachable):
        client.call(STATUS)
    assert time.now == pytest.approx(60)


def test_retry_after_is_honoured_and_told_once(hive: Hive, client: Client, time: Time, notes: list[str]) -> None:
    hive.script.extend([busy("7"), busy("5", 429)])
    assert client.call(STATUS).status == 200
    assert time.now == 12
    assert notes == ["It is busy. Trying again."]


def test_a_wait_beyond_a_minute_is_refused_instead(hive: Hive, client: Client, time: Time) -> None:
    hive.script.append(busy("3600"))
    with pytest.raises(Refusal) as caught:
        client.call(STATUS)
    assert (caught.value.status, caught.value.problem()["code"]) == (503, "busy")
    assert time.now == 0


def test_a_write_that_is_sent_again_carries_the_same_key(hive: Hive, client: Client) -> None:
    hive.script.extend([busy("1"), dies])
    client.call(STATUS)
    hive.script.append(busy("1"))
    client.call(Request("POST", "/api/agents", b"{}", {"Idempotency-Key": "k", "Content-Type": "application/json"}))
    assert [seen.headers["idempotency-key"] for seen in hive.seen if seen.method == "POST"] == ["k", "k"]


def test_an_error_that_is_no_problem_document_is_still_an_error(hive: Hive, client: Client) -> None:
    hive.script.append(lambda seen: (500, {}, b"<html>"))
    with pytest.raises(Refusal) as caught:
        client.call(STATUS)
    assert caught.value.sentence == "The server answered 500."
    assert caught.value.problem()["status"] == 500


def test_a_path_in_the_url_is_kept(server: Server, hive: Hive) -> None:
    hive.script.append(lambda seen: as_json(200, {"path": seen.path}))
    client = Client(place=lambda: Place(f"{server.url}/bus", None))
    assert client.get("/api/status").json() == {"path": "/bus/api/status"}
    client.close()


# --- where the server is ----------------------------------------------------------------------------------------------


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HIVEBUS_URL", "HIVEBUS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HIVEBUS_DATA_DIR", str(tmp_path))
    return tmp_path


def write_local(data_dir: Path) -> None:
    (data_dir / "connection.json").write_text(json.dumps({"url": "http://127.0.0.1:3001", "pid": 1}))
    (data_dir / "admin.key").write_text("hive_local_secret\n")


def test_the_local_server_is_found_by_its_data_directory(data_dir: Path) -> None:
    write_local(data_dir)
    assert locate() == Place("http://127.0.0.1:3001", "hive_local_secret", {"url": "http://127.0.0.1:3001", "pid": 1})


def test_the_local_key_is_never_sent_to_an_address_from_the_environment(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_local(data_dir)
    monkeypatch.setenv("HIVEBUS_URL", "http://somewhere:1/")
    assert locate() == Place("http://somewhere:1", None)


def test_a_key_from_the_environment_wins(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_local(data_dir)
    monkeypatch.setenv("HIVEBUS_KEY", "other")
    assert locate().key == "other"


def test_nothing_runs_where_no_connection_is_written(data_dir: Path) -> None:
    with pytest.raises(Unreachable, match="No server runs with the data directory"):
        locate()


@pytest.mark.parametrize("content", ["{", "[]", '{"url": 1}'])
def test_a_broken_connection_file_is_unreachable_not_a_crash(data_dir: Path, content: str) -> None:
    (data_dir / "connection.json").write_text(content)
    with pytest.raises(Unreachable):
        locate()


@pytest.mark.parametrize("url", ["127.0.0.1:3001", "ftp://host", "http://", "http://host:port"])
def test_an_address_that_is_none_is_a_usage_error(url: str) -> None:
    with pytest.raises(BadInput, match="is no address of a server"):
        _ = Place(url, None).parts
