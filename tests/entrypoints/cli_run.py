"""How the tests run the command line: in this process against a small real server, without sleeping."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from entrypoints.cli import waiting
from entrypoints.cli.app import cli
from tests.entrypoints.cli_server import Hive, Server

KEY = "hive_test_secret"


class Cli:
    """The command line of a user whose environment names the server."""

    def __init__(self, hive: Hive, server: Server) -> None:
        self.hive = hive
        self.server = server

    def __call__(self, *args: str, input: str | bytes | None = None) -> Result:  # noqa: A002 - click's word
        return CliRunner().invoke(cli, list(args), input=input, prog_name="hivebus", env={"COLUMNS": "200"})


@pytest.fixture
def hivebus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cli]:
    """A command line with a server that is up."""
    hive = Hive()
    server = Server(hive)
    monkeypatch.setenv("HIVEBUS_URL", server.url)
    monkeypatch.setenv("HIVEBUS_KEY", KEY)
    monkeypatch.setenv("HIVEBUS_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("HIVEBUS_DEBUG", raising=False)
    monkeypatch.setattr(waiting, "IDLE_S", 0.02)
    cli = Cli(hive, server)
    yield cli
    cli.server.stop()
