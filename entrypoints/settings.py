"""The settings, read once at start. Only this edge of the program knows where they come from."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.kernel.errors import StartRefused
from entrypoints.paths import data_dir
from entrypoints.roles import ALL, RECORDER, Roles

PREFIX = "HIVEBUS_"
# Read elsewhere: by the CLI, by secrets, and by this program's children.
FOREIGN = (
    *("HIVEBUS_URL", "HIVEBUS_KEY", "HIVEBUS_DEBUG", "HIVEBUS_SECRET_"),
    *("HIVEBUS_TASK_", "HIVEBUS_AGENT_ID", "HIVEBUS_ATTEMPT", "HIVEBUS_USAGE_FILE"),
)
# Never an option of the command line, which every user of the machine can read.
SECRET = frozenset({"nats_password", "nats_system_password", "nats_client_password", "database_url"})
SECRET_FILE_BYTES_MAX = 4096

PATIENCE_S = {"lease_s": 60.0, "self_stop_s": 45.0}

Port = Annotated[int, Field(ge=0, le=65535)]
FilePath = Annotated[Path, AfterValidator(Path.expanduser)]


class Settings(BaseSettings):
    """Every setting, its unit and its bound; each is the environment variable HIVEBUS_<NAME>."""

    # An empty variable is an unset one, as it is for the command line: a compose file passes what it has.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, hide_input_in_errors=True, extra="ignore", env_ignore_empty=True
    )

    data_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        default_factory=data_dir, description="Everything that is written lies under it."
    )
    ui_port: Port = Field(3000, description="The page; it serves /api/ too, so that the page has one origin.")
    api_port: Port = Field(3001, description="The REST API.")
    tools_port: Port = Field(8080, description="For tools: MCP at /mcp, every query and the events.")
    metrics_port: Port = Field(9000, description="Prometheus metrics.")
    nats_port: Port = Field(0, description="The embedded broker, on loopback; 0 takes a free one.")
    nats_url: str = Field(
        "",
        repr=False,
        description="A broker of your own, instead of an embedded one: nats:// or tls:// addresses, separated by "
        "commas.",
    )
    nats_user: str = Field("", description="User of that broker, unless the address names it.")
    nats_password: SecretStr = Field("", validate_default=True, description="The user's password.")
    nats_password_file: FilePath | None = Field(None, description="A file that holds the password.")
    nats_creds: FilePath | None = Field(None, description="A credentials file instead of user and password.")
    nats_ca: FilePath | None = Field(None, description="PEM file of the authority of the broker's certificate.")
    nats_cert: FilePath | None = Field(None, description="PEM file of a client certificate, with HIVEBUS_NATS_KEY.")
    nats_key: FilePath | None = Field(None, description="PEM file of that certificate's private key.")
    nats_replicas: int = Field(
        0, ge=0, le=5, description="Copies of the log in that broker; 0: three in a cluster, else one."
    )
    nats_system_user: str = Field("", description="User of its system account; tells at once of a host that is gone.")
    nats_system_password: SecretStr = Field("", validate_default=True, description="The system user's password.")
    nats_system_password_file: FilePath | None = Field(None, description="A file that holds that password.")
    nats_client_user: str = Field(
        "", max_length=100, description="Its user for NATS clients; `hivebus env` hands it on."
    )
    nats_client_password: SecretStr = Field("", validate_default=True, description="The password of that user.")
    nats_client_password_file: FilePath | None = Field(None, description="A file that holds the client's password.")
    profile: Literal["durable", "fast"] = Field(
        "durable",
        description="durable: every commit is on disk before it is acknowledged. fast: a power cut may lose 1 s.",
    )
    bind: str = Field("127.0.0.1", description="Address of the listeners.")
    allowed_hosts: str = Field("", description="Host names beside loopback's that may be called, separated by commas.")
    roles: Roles = Field("api,recorder,scheduler,agents", description="What this process does: all, or some of these.")
    host_name: str = Field("", max_length=64, description="Name of the agent host; the machine's, if it is empty.")
    database_url: SecretStr = Field(
        "",
        validate_default=True,
        description="Store and views in Postgres: postgresql://user:password@host:5432/database. Unset: SQLite files "
        "in the data directory.",
    )
    database_url_file: FilePath | None = Field(None, description="A file that holds that address.")
    database_schema: str = Field(
        "hivebus",
        pattern=r"^[a-z_][a-z0-9_]{0,49}$",
        description="The store's schema in Postgres; the views lie in <schema>_views.",
    )
    slots: int = Field(32, ge=1, le=4096, description="Attempts that this process's host runs at once.")
    shell_slots: int = Field(
        0,
        ge=0,
        le=256,
        description="Slots of the agent `shell` that the first start spawns; 0: one for each processor, at least 2.",
    )
    python_slots: int = Field(8, ge=1, le=256, description="Slots of the agent `python` that the first start spawns.")
    lease_s: float = Field(
        20.0, ge=1, le=3600, description="A host silent for so long is lost; with HIVEBUS_NATS_URL the default is 60."
    )
    self_stop_s: float = Field(
        15.0,
        ge=0.5,
        le=3600,
        description="A host unanswered for so long ends its attempts; with HIVEBUS_NATS_URL the default is 45.",
    )
    beat_s: float = Field(5.0, ge=0.1, le=600, description="Seconds between a host's beats.")
    grace_s: float = Field(
        10.0,
        ge=0,
        le=600,
        description="Seconds to end in: requests are answered, attempts interrupted.",
    )
    cache_aggregates: int = Field(1000, ge=1, le=1_000_000, description="Aggregates that the command bus keeps.")
    cache_ttl_s: float = Field(300.0, ge=1, le=86_400, description="How long it keeps one that is not used.")
    live_tasks_max: int = Field(
        200_000, ge=1, description="Tasks that have not ended; beyond it a submit is 429 and a schedule skips its run."
    )
    sockets_max: int = Field(
        5_000, ge=1, le=100_000, description="WebSocket clients of this process; beyond it a handshake is 503."
    )
    readers: int = Field(4, ge=1, le=64, description="Connections that read, for each of the two databases.")
    disk_warn_percent: float = Field(80.0, ge=1, le=100, description="Used share of the disk from which it is said.")
    disk_full_percent: float = Field(
        90.0, ge=1, le=100, description="Used share of the disk from which only what ends work is accepted."
    )
    disk_enough_gb: float = Field(
        10.0,
        ge=0,
        le=1_000_000,
        description="Free GB that are no warning, and half of it not full, whatever share of the disk is used.",
    )
    alert_queue_age_s: float = Field(
        300.0, ge=0, le=366 * 86_400, description="Alert when a task has been queued for so long; 0: never."
    )
    alert_dead_letters: int = Field(
        10, ge=0, le=10_000, description="Alert when so many tasks have failed for good in the window; 0: never."
    )
    alert_window_s: float = Field(
        3600.0, ge=0, le=30 * 86_400, description="How far back dead letters and lost hosts count; 0: they never do."
    )
    alert_agent_lost_s: float = Field(
        60.0, ge=0, le=86_400, description="Alert when an agent has had no host for so long; 0: never."
    )
    alert_lag_s: float = Field(
        30.0, ge=0, le=86_400, description="Alert when the store or the views are so many seconds behind; 0: never."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What reaches stderr.")

    @property
    def host_names(self) -> frozenset[str]:
        """The names of HIVEBUS_ALLOWED_HOSTS."""
        return frozenset(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())

    @property
    def role_set(self) -> frozenset[str]:
        """The roles of this process."""
        return frozenset(self.roles.split(","))

    @property
    def beside_others(self) -> bool:
        """Whether commands are executed here on what others append: alone, a process has appended everything itself."""
        alone = not self.nats_url and self.role_set == set(ALL)
        return not alone and self.role_set != {RECORDER}

    @model_validator(mode="after")
    def _patience(self) -> Self:
        """A cluster elects new leaders for up to eight seconds, and its holders of leases change after twelve."""
        if self.nats_url:
            for name, seconds in PATIENCE_S.items():
                if name not in self.model_fields_set:
                    setattr(self, name, seconds)
        return self


def load() -> Settings:
    """The settings of this start. Raises StartRefused with the variable's name, never with its value."""
    _refuse_misspelt()
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        said = str(first["msg"]).removeprefix("Value error, ")
        raise StartRefused(f"{name}: {said}.", remedy=f"Correct {name} or unset it.") from None
    if not settings.beat_s < settings.self_stop_s < settings.lease_s:
        raise StartRefused(
            "HIVEBUS_BEAT_S, HIVEBUS_SELF_STOP_S and HIVEBUS_LEASE_S must grow in this order.",
            remedy="A host must stop by itself before its lease ends: 5, 15 and 20 are the defaults.",
        )
    if settings.disk_warn_percent > settings.disk_full_percent:
        raise StartRefused(
            "HIVEBUS_DISK_WARN_PERCENT is above HIVEBUS_DISK_FULL_PERCENT.",
            remedy="A warning comes first: 80 and 90 are the defaults.",
        )
    return settings


def secret_text(value: SecretStr, file: Path | None, variable: str) -> str:
    """What a secret setting holds, itself or by its file; empty where neither is given."""
    text = value.get_secret_value()
    if file is None:
        return text
    if text:
        raise StartRefused(f"{variable} and {variable}_FILE are both set.", remedy="Keep one of them.")
    try:
        with file.open(encoding="utf-8") as opened:
            found = opened.read(SECRET_FILE_BYTES_MAX).strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise StartRefused(
            f"{variable}_FILE: {file} cannot be read: {why}.", remedy="Give a file that this user may read."
        ) from None
    if not found:
        raise StartRefused(f"{variable}_FILE: {file} is empty.", remedy="Write the value into it, on one line.")
    return found


def _refuse_misspelt() -> None:
    """pydantic passes over names it does not know; a misspelt setting would be ignored silently."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known and not name.startswith(FOREIGN):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]}?" if close else "docs/reference/settings.md lists what there is."
            raise StartRefused(f"{name} is no setting of Hivebus.", remedy=hint)
