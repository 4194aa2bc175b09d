"""Settings: read once, checked at start, named when they are wrong, never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.kernel.errors import StartRefused
from entrypoints.roles import ALL
from entrypoints.settings import PREFIX, SECRET, Settings, load
from tests.entrypoints.program import RunningProgram


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without any setting but the data directory."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HIVEBUS_DATA_DIR", str(tmp_path))


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    settings = load()
    ports = (settings.ui_port, settings.api_port, settings.tools_port, settings.metrics_port)
    assert ports == (3000, 3001, 8080, 9000)
    assert (settings.bind, settings.profile, settings.data_dir) == ("127.0.0.1", "durable", tmp_path)


@pytest.mark.parametrize(
    ("roles", "nats_url", "beside_others"),
    [
        (",".join(ALL), "", False),
        (",".join(ALL), "nats://127.0.0.1:4222", True),
        ("api,agents", "", True),
        ("recorder", "", False),
    ],
)
def test_who_executes_commands_beside_other_processes_is_told(
    roles: str, nats_url: str, beside_others: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEBUS_ROLES", roles)
    monkeypatch.setenv("HIVEBUS_NATS_URL", nats_url)
    assert load().beside_others is beside_others


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_a_variable_with_a_description(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.model_fields[name].description
    default = getattr(load(), name)
    text = {"profile": "fast", "log_level": "debug", "roles": "api,recorder", "database_schema": "other"}
    numeric = isinstance(default, int | float)
    changed = str(default + (0.5 if isinstance(default, float) else 1)) if numeric else text.get(name, "/x")
    monkeypatch.setenv(PREFIX + name.upper(), changed)
    value = getattr(load(), name)
    assert str(value.get_secret_value() if name in SECRET else value) == changed


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEBUS_API_PORT", "")
    monkeypatch.setenv("HIVEBUS_DATA_DIR", "")
    settings = load()
    assert settings.api_port == 3001
    assert settings.data_dir.is_absolute()


def test_a_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEBUS_DATA_DIR", "~/hive")
    assert load().data_dir == Path.home() / "hive"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HIVEBUS_API_PROT", "HIVEBUS_API_PORT"),
        ("HIVEBUS_DATADIR", "HIVEBUS_DATA_DIR"),
        ("HIVEBUS_LEASE", "HIVEBUS_LEASE_S"),
        ("HIVEBUS_LOGLEVEL", "HIVEBUS_LOG_LEVEL"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_one_that_was_meant(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "sesame-1234")
    with pytest.raises(StartRefused) as refused:
        load()
    assert name in refused.value.sentence
    assert meant in refused.value.remedy
    assert "sesame" not in refused.value.sentence + refused.value.remedy


@pytest.mark.parametrize(
    "name",
    [
        "HIVEBUS_URL",
        "HIVEBUS_KEY",
        "HIVEBUS_DEBUG",
        "HIVEBUS_SECRET_TOKEN",
        "HIVEBUS_TASK_ID",
        "HIVEBUS_AGENT_ID",
        "HIVEBUS_ATTEMPT",
        "HIVEBUS_USAGE_FILE",
        "HIVE",
    ],
)
def test_what_others_read_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HIVEBUS_API_PORT", "sesame"),
        ("HIVEBUS_API_PORT", "65536"),
        ("HIVEBUS_UI_PORT", "-1"),
        ("HIVEBUS_PROFILE", "sesame"),
        ("HIVEBUS_SLOTS", "0"),
        ("HIVEBUS_LEASE_S", "nan"),
        ("HIVEBUS_GRACE_S", "-1"),
        ("HIVEBUS_GRACE_S", "inf"),
        ("HIVEBUS_READERS", "9" * 30),
        ("HIVEBUS_LOG_LEVEL", "sesame"),
        ("HIVEBUS_SHELL_SLOTS", "1.5"),
    ],
)
def test_a_bad_value_is_named_and_not_shown(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartRefused) as refused:
        load()
    said = refused.value.sentence + refused.value.remedy
    assert name in refused.value.sentence
    assert name in refused.value.remedy
    assert "sesame" not in said
    assert "9" * 30 not in said


@pytest.mark.parametrize(
    "changed",
    [{"HIVEBUS_LEASE_S": "10"}, {"HIVEBUS_BEAT_S": "15"}, {"HIVEBUS_SELF_STOP_S": "20"}, {"HIVEBUS_SELF_STOP_S": "4"}],
)
def test_a_host_must_stop_before_its_lease_ends(changed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartRefused, match="must grow in this order"):
        load()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HIVEBUS_API_PROT", "sesame-1234", "Did you mean HIVEBUS_API_PORT?"),
        ("HIVEBUS_API_PORT", "sesame-1234", "Correct HIVEBUS_API_PORT or unset it."),
    ],
)
def test_the_program_says_it_in_two_lines_and_exits_with_1(data_dir: Path, name: str, value: str, said: str) -> None:
    words = RunningProgram(data_dir, **{name: value}).refused()
    assert len(words.splitlines()) == 2, words
    assert words.startswith(f"hivebus: {name}")
    assert said in words
    assert "sesame" not in words
    assert not data_dir.exists()


def test_a_cluster_has_more_patience_unless_it_is_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEBUS_NATS_URL", "nats://localhost")
    assert (load().lease_s, load().self_stop_s) == (60, 45)
    monkeypatch.setenv("HIVEBUS_LEASE_S", "50")
    monkeypatch.setenv("HIVEBUS_SELF_STOP_S", "15")
    assert (load().lease_s, load().self_stop_s) == (50, 15)


@pytest.mark.parametrize("text", ["", "api,api", "scheduler, api ", "agents"])
def test_roles_have_one_order(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEBUS_ROLES", text)
    words = {word.strip() for word in text.split(",")} - {""} or set(ALL)
    assert load().role_set == words
    assert load().roles.split(",") == [role for role in ALL if role in words]
