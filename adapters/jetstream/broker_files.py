"""What lies in `<data_dir>/broker`: passwords and configuration, readable by nobody else."""

from __future__ import annotations

import json
import logging
import os
import secrets
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from core.kernel.subjects import (
    CLIENT_INBOX,
    CLIENT_USER,
    COMMANDS,
    DISCOVERY,
    EVENTS,
    HOST_BEAT,
    HOST_COMMANDS,
    HOST_INBOX,
    HOST_ROOT,
    HOST_USER,
    PAYLOAD_MAX_BYTES,
)

LOG_FILE_BYTES_MAX = 4 * 1024 * 1024
LOG_FILES_MAX = 3
STORE_MAX_BYTES = 1 << 50
SYNC_INTERVALS = {"durable": "always", "fast": "1s"}

_logger = logging.getLogger("hivebus.broker")


class Passwords(Struct, frozen=True):
    """The passwords of the broker's users, kept across restarts."""

    hivebus: str = ""
    system: str = ""
    client: str = ""
    hosts: str = ""


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that was never readable by others, durable on return."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_passwords(path: Path) -> Passwords:
    """The stored passwords; one that is not there yet is made, and stored."""
    stored = Passwords()
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=Passwords)
    except FileNotFoundError:
        pass
    except msgspec.MsgspecError as error:
        # Nothing but this program knows them, so new ones harm nobody.
        _logger.warning("The broker's passwords in %s cannot be read (%s); making new ones.", path, error)
    missing = {user: secrets.token_urlsafe(32) for user, password in structs.asdict(stored).items() if not password}
    if not missing:
        return stored
    passwords = structs.replace(stored, **missing)
    write_private(path, msgspec.json.encode(passwords).decode())
    return passwords


def configuration(*, port: int, name: str, store_dir: Path, log_file: Path, profile: str, passwords: Passwords) -> str:
    """The text of nats-server.conf: loopback, an account for the program, its clients and hosts, one for the system."""
    client = {"user": CLIENT_USER, "password": passwords.client, "permissions": client_permissions()}
    hosts = {"user": HOST_USER, "password": passwords.hosts, "permissions": host_permissions()}
    # The format is a superset of JSON strings, and quoting keeps `$` in a path from meaning a variable.
    return f"""\
host: "127.0.0.1"
port: {port}
server_name: {json.dumps(name)}
max_payload: {PAYLOAD_MAX_BYTES}
log_file: {json.dumps(str(log_file))}
logfile_size_limit: {LOG_FILE_BYTES_MAX}
logfile_max_num: {LOG_FILES_MAX}
logtime_utc: true
jetstream {{
  store_dir: {json.dumps(str(store_dir))}
  # Else three quarters of what is free at this start are the bound for ever, also when space is freed later.
  max_file_store: {STORE_MAX_BYTES}
  sync_interval: {SYNC_INTERVALS[profile]}
}}
system_account: SYS
accounts {{
  HIVE: {{
    jetstream: enabled
    users: [
      {{ user: hivebus, password: {json.dumps(passwords.hivebus)} }}
      {json.dumps(client)}
      {json.dumps(hosts)}
    ]
  }}
  SYS: {{ users: [ {{ user: system, password: {json.dumps(passwords.system)} }} ] }}
}}
"""


def client_permissions() -> dict[str, dict[str, list[str]]]:
    """What a client may do: send commands, find the service, hear its own answers and the public events; no more."""
    discovery = [f"{DISCOVERY}.{verb}{rest}" for verb in ("PING", "INFO", "STATS") for rest in ("", ".>")]
    return {
        "publish": {"allow": [f"{COMMANDS}.>", *discovery]},
        "subscribe": {"allow": [f"{CLIENT_INBOX}.>", f"{EVENTS}.>"]},
    }


def host_permissions() -> dict[str, dict[str, list[str]]]:
    """What an agent host may do: its commands and beats, its own answers, and what schedulers send; no log."""
    return {
        "publish": {"allow": [f"{HOST_COMMANDS}.>", HOST_BEAT]},
        "subscribe": {"allow": [f"{HOST_INBOX}.>", f"{HOST_ROOT}.*.run", f"{HOST_ROOT}.*.cancel"]},
    }
