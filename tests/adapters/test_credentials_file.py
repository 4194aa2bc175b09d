"""HIVEBUS_NATS_CREDS: a login with a credentials file, on a server that trusts an operator."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nkeys
import pytest

from adapters.jetstream.broker import Access
from adapters.jetstream.connection import connect_to, ensure_stream
from adapters.jetstream.log import JetStreamLog
from core.kernel.errors import StartRefused
from tests.cluster import Node
from tests.given import new_id

LIMITS = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
JETSTREAM = ("mem_storage", "disk_storage", "streams", "consumer")


class Identity:
    """A key pair of one kind, and what it signs."""

    def __init__(self, prefix: int) -> None:
        self.seed: bytes = nkeys.encode_seed(os.urandom(32), prefix)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    def jwt(self, subject: Identity, kind: str, **claims: Any) -> str:
        content = {"type": kind, "version": 2, **claims}
        parts = (
            {"typ": "JWT", "alg": "ed25519-nkey"},
            {"jti": "TEST", "iat": 1, "iss": self.public, "sub": subject.public, "name": kind, "nats": content},
        )
        signed = ".".join(_base64(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{_base64(self._pair.sign(signed.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Operator:
    """An operator, an account with JetStream, and the credentials of its users."""

    def __init__(self) -> None:
        self._operator = Identity(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Identity(nkeys.PREFIX_BYTE_ACCOUNT)
        self._system = Identity(nkeys.PREFIX_BYTE_ACCOUNT)

    def configuration(self, node: Node) -> str:
        limits = dict.fromkeys(LIMITS, -1) | {"wildcards": True}
        account = self._operator.jwt(self._account, "account", limits=limits | dict.fromkeys(JETSTREAM, -1))
        system = self._operator.jwt(self._system, "account", limits=limits)
        return f"""\
host: "127.0.0.1"
port: {node.port}
server_name: {node.name}
http: "127.0.0.1:{node.monitor_port}"
jetstream {{ store_dir: "{node.store}" }}
operator: {self._operator.jwt(self._operator, "operator", system_account=self._system.public)}
system_account: {self._system.public}
resolver: MEMORY
resolver_preload: {{ {self._account.public}: {account}, {self._system.public}: {system} }}
"""

    def credentials(self, path: Path) -> Path:
        """A credentials file for a new user, as `nsc generate creds` writes it."""
        user = Identity(nkeys.PREFIX_BYTE_USER)
        jwt = self._account.jwt(user, "user", subs=-1, data=-1, payload=-1)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return path


@pytest.fixture
def operator() -> Operator:
    return Operator()


@pytest.fixture
def server(tmp_path: Path, operator: Operator) -> Iterator[Node]:
    node = Node("s1", tmp_path, operator.configuration, routed=False)
    node.start()
    yield node
    node.kill()


def access(server: Node, credentials: Path) -> Access:
    return Access(urls=(f"nats://127.0.0.1:{server.port}",), credentials=credentials)


async def test_a_credentials_file_gets_in(server: Node, operator: Operator, tmp_path: Path) -> None:
    client = await connect_to(access(server, operator.credentials(tmp_path / "a.creds")), name="test")
    await ensure_stream(client, replicas=0)
    log = await JetStreamLog.open(client)
    assert await log.append("hive.log.task.1", new_id(), b"x", expected=0) == 1
    await log.close()
    await client.close()


async def test_credentials_of_another_operator_are_refused(server: Node, tmp_path: Path) -> None:
    foreign = Operator().credentials(tmp_path / "a.creds")
    with pytest.raises(StartRefused, match="refused the credentials of HIVEBUS_NATS_CREDS"):
        await connect_to(access(server, foreign), name="test", deadline_s=60.0)


@pytest.mark.parametrize("broken", ["", "no credentials", "seed", "missing"])
async def test_a_file_that_is_none_is_refused_without_showing_it(
    broken: str, operator: Operator, tmp_path: Path
) -> None:
    path = operator.credentials(tmp_path / "a.creds")
    seed = path.read_text().split("SEED-----\n")[1].splitlines()[0]
    if broken == "missing":
        path.unlink()
    else:
        path.write_text(path.read_text().replace(seed, f"{seed[:-4]}!") if broken == "seed" else broken)
    with pytest.raises(StartRefused) as caught:
        await connect_to(Access(urls=("nats://127.0.0.1:9",), credentials=path), name="test")
    assert caught.value.sentence.startswith(f"HIVEBUS_NATS_CREDS: {path} cannot be used: ")
    assert seed[:20] not in caught.value.sentence + caught.value.remedy


async def test_without_the_package_the_remedy_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nkeys", None)
    with pytest.raises(StartRefused) as caught:
        await connect_to(Access(urls=("nats://127.0.0.1:9",), credentials=tmp_path / "x"), name="test")
    assert "pip install" in caught.value.remedy
