from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from entrypoints.cli import machine
from entrypoints.cli.app import cli
from entrypoints.cli.machine import setting_options
from entrypoints.eta import Told

HEAVY = ("sanic", "sqlalchemy", "pydantic", "nats", "uvloop", "adapters", "projections")


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args), prog_name="hivebus")


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HIVEBUS_URL", "HIVEBUS_KEY", "HIVEBUS_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HIVEBUS_DATA_DIR", str(tmp_path))
    (tmp_path / "admin.key").write_text("hive_abc_secret-part_1\n")
    (tmp_path / "connection.json").write_text(json.dumps({"url": "http://127.0.0.1:9/a'b"}))
    return tmp_path


# --- a light start ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        *(
            "--help",
            "--version",
            "queue",
            "status",
            "env",
            "key show",
            "log tail",
            "verify --help",
            "rebuild --help",
            "backup --help",
            "restore --help",
        ),
        *("task list", "task show a", "task watch a", "task submit --type a", "agent spawn --type a"),
    ],
)
def test_no_command_but_up_and_verify_imports_what_the_server_needs(data_dir: Path, args: str) -> None:
    program = (
        "import sys\nfrom entrypoints.cli.app import cli\n"
        f"try: cli.main({args.split()!r}, prog_name='hivebus')\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} + ('rich',) if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("hivebus ")


# --- env and key ------------------------------------------------------------------------------------------------------


def test_env_is_safe_to_evaluate(data_dir: Path) -> None:
    script = run("env").stdout + 'printf "%s %s" "$HIVEBUS_URL" "$HIVEBUS_KEY"'
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "http://127.0.0.1:9/a'b hive_abc_secret-part_1"
    assert json.loads(run("env", "--json").stdout)["HIVEBUS_KEY"] == "hive_abc_secret-part_1"


NATS = {
    "nats_url": "nats://127.0.0.1:4222",
    "nats_user": "client",
    "nats_password": "it's",
    "nats_inbox_prefix": "_INBOX_client",
}
PRINTED = {name.upper(): value for name, value in NATS.items()}


def nats_lines() -> dict[str, str]:
    document = json.loads(run("env", "--json").stdout)
    return {name: value for name, value in document.items() if name.startswith("NATS_")}


def test_env_prints_what_a_nats_client_needs(data_dir: Path) -> None:
    assert nats_lines() == {}
    url = "http://127.0.0.1:9"
    (data_dir / "connection.json").write_text(json.dumps({"url": url, "pid": 1, **NATS}))
    assert nats_lines() == PRINTED
    script = run("env").stdout + 'printf "%s %s" "$NATS_PASSWORD" "$NATS_INBOX_PREFIX"'
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "it's _INBOX_client"


def test_env_prints_it_again_after_its_own_output_was_evaluated_and_never_for_another_server(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_dir / "connection.json").write_text(json.dumps({"url": "http://127.0.0.1:9", **NATS}))
    monkeypatch.setenv("HIVEBUS_URL", "http://127.0.0.1:9/")
    assert nats_lines() == PRINTED
    monkeypatch.setenv("HIVEBUS_URL", "http://elsewhere:9")
    assert nats_lines() == {}


def test_key_names_the_key_and_only_show_prints_it(data_dir: Path) -> None:
    about = run("key")
    assert "abc" in about.stdout
    assert str(data_dir / "admin.key") in about.stdout
    assert "secret" not in about.stdout
    assert run("key", "show").stdout == "hive_abc_secret-part_1\n"


def test_without_a_key_the_remedy_is_to_start(data_dir: Path) -> None:
    (data_dir / "admin.key").unlink()
    result = run("key")
    assert result.exit_code == 1
    assert "start it: hivebus up" in result.stderr


# --- up ---------------------------------------------------------------------------------------------------------------


def modules(monkeypatch: pytest.MonkeyPatch, **members: Any) -> None:
    monkeypatch.setattr(machine, "import_module", lambda name: SimpleNamespace(**members))


@pytest.mark.parametrize("code", [0, 1])
def test_up_puts_options_into_the_environment_and_ends_as_the_server_did(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    options = setting_options()
    environment: dict[str, str] = {}
    modules(monkeypatch, serve=lambda: code)
    monkeypatch.setattr(machine, "setting_options", lambda names=None: options)
    monkeypatch.setattr(machine, "os", SimpleNamespace(environ=environment))
    result = run("up", "--ui-port", "8000", "--profile", "fast", "--data-dir", "here")
    assert result.exit_code == code
    assert environment == {"HIVEBUS_UI_PORT": "8000", "HIVEBUS_PROFILE": "fast", "HIVEBUS_DATA_DIR": "here"}


def test_an_agent_host_has_the_settings_that_it_reads_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    page = run("agent-host", "--help").stdout
    assert all(f"--{name}" in page for name in ("data-dir", "host-name", "slots", "nats-url", "beat-s"))
    assert not any(f"--{name}" in page for name in ("ui-port", "profile", "lease-s", "roles", "nats-password "))
    options = setting_options(machine.OF_HOSTS)
    modules(monkeypatch, serve=lambda: 1)
    environment: dict[str, str] = {}
    monkeypatch.setattr(machine, "setting_options", lambda names=None: options)
    monkeypatch.setattr(machine, "os", SimpleNamespace(environ=environment))
    assert run("agent-host", "--host-name", "gpu-1").exit_code == 1
    assert environment == {"HIVEBUS_HOST_NAME": "gpu-1"}


def test_every_setting_is_an_option_of_up() -> None:
    page = run("up", "--help").stdout
    assert all(
        f"--{name.replace('_', '-')}" in page for name in ("data_dir", "ui_port", "api_port", "profile", "slots")
    )


# --- verify -----------------------------------------------------------------------------------------------------------


def verifier(report: dict[str, Any]) -> Callable[..., Any]:
    async def verify(data_dir: Path, progress: Callable[[int, int], None]) -> dict[str, Any]:
        progress(1, 2)
        return report

    return verify


VIEWS = [{"name": "tasks", "rows": 7, "equal": True}, {"name": "agents", "rows": 2, "equal": True}]
EQUAL = {"equal": True, "position": 9, "views": VIEWS, "difference": None, "heads": 3, "unchecked_heads": 0}


class DriverText(str):
    """A database driver's own kind of text."""


DIFFERENCE = {"view": "agents", "key": "a1", "column": DriverText("name"), "stored": "old", "refolded": "new"}


def test_verify_lists_each_view_and_ends_with_0_when_equal(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules(monkeypatch, verify=verifier(EQUAL))
    result = run("verify")
    assert result.exit_code == 0
    *rows, views, heads = result.stdout.splitlines()
    assert rows == ["VIEW    ROWS  RESULT", "tasks   7     equal", "agents  2     equal", ""]
    assert views.startswith("The views equal the log up to position 9 (")
    assert heads == "3 signed heads of the log hold."


def test_verify_ends_with_1_and_names_view_key_column_and_both_values(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [VIEWS[0], VIEWS[1] | {"equal": False}]
    modules(monkeypatch, verify=verifier(EQUAL | {"equal": False, "views": views, "difference": DIFFERENCE}))
    result = run("verify")
    assert result.exit_code == 1
    assert "agents  2     DIFFERENT" in result.stdout
    assert "First difference: view agents, key a1, column name\n  stored    old\n  refolded  new" in result.stdout
    assert json.loads(run("verify", "--json").stdout)["difference"] == DIFFERENCE


def test_long_work_says_how_far_it_is_how_fast_it_goes_and_what_is_left() -> None:
    now = [0.0]
    said: list[str] = []
    heard = Told(said.append, lambda: now[0])
    for seconds in range(5):
        now[0] = seconds
        heard(seconds * 100, 900)
    assert said == ["200 of 900 commits, 100/s, about 7 s left", "400 of 900 commits, 100/s, about 5 s left"]


def test_work_that_begins_again_is_measured_anew() -> None:
    now = [0.0]
    said: list[str] = []
    heard = Told(said.append, lambda: now[0])
    for seconds, position in ((1.0, 900), (1.5, 0), (3.5, 100)):
        now[0] = seconds
        heard(position, 900)
    assert said == ["100 of 900 commits, 50/s, about 16 s left"]


def test_verify_of_a_directory_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    result = run("verify", "--data-dir", str(tmp_path / "nowhere"))
    assert result.exit_code == 1
    assert "There is no data directory" in result.stderr
