from __future__ import annotations

from pathlib import Path

import pytest

from adapters.secrets import VALUES_AGE_S, FileSecrets
from core.kernel.errors import Unprocessable


def store(data_dir: Path, name: str, value: bytes, mode: int = 0o600) -> None:
    (data_dir / "secrets").mkdir(exist_ok=True)
    path = data_dir / "secrets" / name
    path.write_bytes(value)
    path.chmod(mode)


def test_a_secret_is_a_file_or_a_variable_and_the_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path, "FROM_FILE", b"in the file\n")
    monkeypatch.setenv("HIVEBUS_SECRET_FROM_FILE", "in the variable")
    monkeypatch.setenv("HIVEBUS_SECRET_FROM_ENV", "also a variable")
    secrets = FileSecrets(tmp_path)
    assert (secrets.get("FROM_FILE"), secrets.get("FROM_ENV")) == ("in the file", "also a variable")
    assert secrets.names() == ["FROM_ENV", "FROM_FILE"]
    assert secrets.values() == {"in the file": "FROM_FILE", "also a variable": "FROM_ENV"}


@pytest.mark.parametrize("name", ["ABSENT", "../admin.key", "lower", "", "A" * 65])
def test_what_is_no_secret_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "admin.key").write_text("the key of the house")
    assert FileSecrets(tmp_path).get(name) is None
    assert FileSecrets(tmp_path).names() == []


def test_a_file_that_others_can_read_is_refused_and_still_recognised(tmp_path: Path) -> None:
    store(tmp_path, "LOOSE", b"readable by all", mode=0o644)
    secrets = FileSecrets(tmp_path)
    with pytest.raises(Unprocessable) as refused:
        secrets.get("LOOSE")
    assert refused.value.code == "secret_exposed"
    assert "chmod 600" in refused.value.remedy
    assert secrets.values() == {"readable by all": "LOOSE"}


def test_a_secret_that_is_no_text_is_refused_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store(tmp_path, "BINARY", b"\xff\xfe binary data")
    secrets = FileSecrets(tmp_path)
    with pytest.raises(Unprocessable) as refused:
        secrets.get("BINARY")
    assert refused.value.code == "secret_unreadable"
    assert secrets.values() == {}
    assert "BINARY" in caplog.text
    assert "binary data" not in caplog.text


def test_known_values_are_read_again_after_their_age(tmp_path: Path) -> None:
    now = [100.0]
    secrets = FileSecrets(tmp_path, monotonic=lambda: now[0])
    assert secrets.values() == {}
    store(tmp_path, "NEW", b"a new secret")
    store(tmp_path, "SHORT", b"short")
    assert secrets.values() == {}
    now[0] += VALUES_AGE_S
    assert secrets.values() == {"a new secret": "NEW"}
