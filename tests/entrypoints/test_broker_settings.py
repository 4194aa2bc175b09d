"""HIVEBUS_NATS_*: which broker they mean, and what contradicts itself; no password is ever shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapters.jetstream.broker import Access, Broker, ExternalBroker
from adapters.jetstream.server import EmbeddedServer
from core.kernel.errors import StartRefused
from entrypoints.broker import chosen_broker
from entrypoints.settings import PREFIX, load

SECRET = "sesame-1234"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HIVEBUS_DATA_DIR", str(tmp_path))


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n")
    return str(path)


def chosen(**settings: str) -> Broker:
    """The broker that these HIVEBUS_NATS_<NAME> choose."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(f"HIVEBUS_{name}" if name == "PROFILE" else f"HIVEBUS_NATS_{name}", value)
        return chosen_broker(load())


def test_without_an_address_the_broker_is_embedded() -> None:
    assert isinstance(chosen(), EmbeddedServer)


def test_addresses_user_and_password_are_taken_apart() -> None:
    broker = chosen(URL=f" nats://me:{SECRET}%40@a:4222, nats://me:{SECRET}%40@[::1]:4223/ ,nats://me:{SECRET}%40@c")
    assert isinstance(broker, ExternalBroker)
    assert broker.access == Access(
        urls=("nats://a:4222", "nats://[::1]:4223", "nats://c"), user="me", password=f"{SECRET}@"
    )
    assert (broker.system_access, broker.replicas) == (None, 0)
    assert SECRET not in repr(broker.access)


def test_a_password_comes_from_a_file(password_file: str) -> None:
    broker = chosen(URL="tls://a", USER="me", PASSWORD_FILE=password_file)
    assert broker.access == Access(urls=("tls://a",), user="me", password=SECRET, tls=True)


def test_the_user_of_nats_clients_is_handed_on(password_file: str) -> None:
    broker = chosen(URL="nats://a,nats://b", CLIENT_USER="guest", CLIENT_PASSWORD_FILE=password_file)
    assert broker.client_access == Access(urls=("nats://a", "nats://b"), user="guest", password=SECRET)
    assert chosen(URL="nats://a").client_access is None
    with pytest.raises(StartRefused, match="HIVEBUS_NATS_CLIENT_USER and HIVEBUS_NATS_CLIENT_PASSWORD go together"):
        chosen(URL="nats://a", CLIENT_USER="guest")
    with pytest.raises(StartRefused, match="HIVEBUS_NATS_CLIENT_PASSWORD belongs to a broker of your own"):
        chosen(CLIENT_PASSWORD=SECRET)


def test_the_system_account_is_reached_the_same_way(password_file: str, tmp_path: Path) -> None:
    broker = chosen(
        URL="nats://a", CA=str(tmp_path / "ca.pem"), SYSTEM_USER="sys", SYSTEM_PASSWORD_FILE=password_file, REPLICAS="5"
    )
    assert broker.system_access == Access(
        urls=("nats://a",), user="sys", password=SECRET, tls=True, ca=tmp_path / "ca.pem"
    )
    assert broker.replicas == 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"URL": f"http://me:{SECRET}@a"}, "HIVEBUS_NATS_URL holds what is no address"),
        ({"URL": f"{SECRET}:4222"}, "HIVEBUS_NATS_URL holds what is no address"),
        ({"URL": f"nats://me:{SECRET}@a:99999"}, "HIVEBUS_NATS_URL holds what is no address"),
        ({"URL": f"nats://me:{SECRET}@a/path"}, "HIVEBUS_NATS_URL holds what is no address"),
        ({"URL": "nats://a,"}, "HIVEBUS_NATS_URL holds what is no address"),
        ({"URL": "nats://a,tls://b"}, "HIVEBUS_NATS_URL mixes nats:// and tls://"),
        ({"URL": f"nats://me:{SECRET}@a,nats://you:{SECRET}@b"}, "HIVEBUS_NATS_URL names different users"),
        ({"URL": f"nats://me:{SECRET}@a", "USER": "me"}, "both name a user"),
        ({"URL": f"nats://me:{SECRET}@a", "PASSWORD": SECRET}, "both hold a password"),
        ({"URL": "nats://a", "USER": "me"}, "user and password go together"),
        ({"URL": "nats://a", "PASSWORD": SECRET}, "user and password go together"),
        ({"URL": f"nats://me:{SECRET}@a", "CREDS": "/x"}, "HIVEBUS_NATS_CREDS and a user"),
        ({"URL": "nats://a", "CERT": "/x"}, "HIVEBUS_NATS_CERT and HIVEBUS_NATS_KEY go together"),
        ({"URL": "nats://a", "SYSTEM_USER": "sys"}, "HIVEBUS_NATS_SYSTEM_USER and HIVEBUS_NATS_SYSTEM_PASSWORD"),
        ({"URL": "nats://a", "PORT": "4222"}, "HIVEBUS_NATS_PORT is about the embedded broker"),
        ({"URL": "nats://a", "PROFILE": "fast"}, "HIVEBUS_PROFILE is about the embedded broker"),
        ({"URL": "nats://a", "USER": "me", "PASSWORD_FILE": "/nowhere"}, "HIVEBUS_NATS_PASSWORD_FILE: /nowhere"),
        ({"USER": "me"}, "HIVEBUS_NATS_USER belongs to a broker of your own"),
        ({"PASSWORD": SECRET}, "HIVEBUS_NATS_PASSWORD belongs to a broker of your own"),
        ({"REPLICAS": "3"}, "HIVEBUS_NATS_REPLICAS belongs to a broker of your own"),
    ],
)
def test_what_contradicts_itself_is_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(StartRefused) as refused:
        chosen(**settings)
    assert said in refused.value.sentence
    assert refused.value.remedy
    assert SECRET not in refused.value.sentence + refused.value.remedy


def test_a_password_given_twice_is_refused(password_file: str) -> None:
    with pytest.raises(StartRefused, match="are both set"):
        chosen(URL="nats://a", USER="me", PASSWORD=SECRET, PASSWORD_FILE=password_file)


def test_an_empty_password_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(StartRefused, match="is empty"):
        chosen(URL="nats://a", USER="me", PASSWORD_FILE=str(tmp_path / "empty"))


def test_no_text_of_the_settings_shows_a_password() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIVEBUS_NATS_URL", f"nats://me:{SECRET}@a")
        patch.setenv("HIVEBUS_NATS_PASSWORD", SECRET)
        assert SECRET not in repr(load())
