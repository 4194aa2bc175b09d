"""Which broker the settings ask for: one of our own, or HIVEBUS_NATS_URL."""

from __future__ import annotations

from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import SecretStr

from adapters.jetstream.broker import Access, Broker, ExternalBroker
from adapters.jetstream.server import EmbeddedServer
from core.kernel.errors import StartRefused
from entrypoints.settings import Settings, secret_text

ADDRESSES_MAX = 16

_EXTERNAL_ONLY = (
    "nats_user",
    "nats_password",
    "nats_password_file",
    "nats_creds",
    "nats_ca",
    "nats_cert",
    "nats_key",
    "nats_replicas",
    "nats_system_user",
    "nats_system_password",
    "nats_system_password_file",
    "nats_client_user",
    "nats_client_password",
    "nats_client_password_file",
)


def chosen_broker(settings: Settings) -> Broker:
    """The broker, not started. Raises StartRefused for settings that contradict each other; no message shows a value.

    A password is read from its file here, once.
    """
    if not settings.nats_url:
        for name in _EXTERNAL_ONLY:
            if _given(getattr(settings, name)):
                variable = f"HIVEBUS_{name.upper()}"
                raise StartRefused(
                    f"{variable} belongs to a broker of your own, and HIVEBUS_NATS_URL names none.",
                    remedy=f"Set HIVEBUS_NATS_URL, or unset {variable}.",
                )
        return EmbeddedServer(settings.data_dir, port=settings.nats_port, profile=settings.profile)
    if settings.nats_port or settings.profile != "durable":
        variable = "HIVEBUS_NATS_PORT" if settings.nats_port else "HIVEBUS_PROFILE"
        raise StartRefused(
            f"{variable} is about the embedded broker, and HIVEBUS_NATS_URL names another one.",
            remedy=f"Unset {variable}; how that broker syncs to disk is its own setting, sync_interval.",
        )
    access = _access(settings)
    system = _other(
        access,
        settings.nats_system_user,
        secret_text(settings.nats_system_password, settings.nats_system_password_file, "HIVEBUS_NATS_SYSTEM_PASSWORD"),
        "HIVEBUS_NATS_SYSTEM",
        without="without them a host that is gone is noticed when its lease ends.",
    )
    client = _other(
        access,
        settings.nats_client_user,
        secret_text(settings.nats_client_password, settings.nats_client_password_file, "HIVEBUS_NATS_CLIENT_PASSWORD"),
        "HIVEBUS_NATS_CLIENT",
        without="without them `hivebus env` prints no user for NATS clients.",
    )
    return ExternalBroker(access, system_access=system, client_access=client, replicas=settings.nats_replicas)


def _other(access: Access, user: str, password: str, variable: str, *, without: str) -> Access | None:
    """Another user of the same broker; None where it is not given."""
    if bool(user) != bool(password):
        raise StartRefused(
            f"{variable}_USER and {variable}_PASSWORD go together.", remedy=f"Set both, or neither: {without}"
        )
    if not user:
        return None
    return Access(
        urls=access.urls,
        user=user,
        password=password,
        tls=access.tls,
        ca=access.ca,
        certificate=access.certificate,
        key=access.key,
    )


def _access(settings: Settings) -> Access:
    parts = [_address(text.strip()) for text in settings.nats_url.split(",")]
    if len(parts) > ADDRESSES_MAX:
        raise _bad_url(f"holds more than {ADDRESSES_MAX} addresses")
    if len({part.scheme for part in parts}) > 1:
        raise _bad_url("mixes nats:// and tls://")
    logins = {(part.username or "", part.password or "") for part in parts}
    if len(logins) > 1:
        raise _bad_url("names different users or passwords")
    user, password = map(unquote, logins.pop())
    if user and settings.nats_user:
        raise StartRefused(
            "HIVEBUS_NATS_URL and HIVEBUS_NATS_USER both name a user.", remedy="Keep one of them; a file is safest."
        )
    given = secret_text(settings.nats_password, settings.nats_password_file, "HIVEBUS_NATS_PASSWORD")
    if password and given:
        raise StartRefused(
            "HIVEBUS_NATS_URL and HIVEBUS_NATS_PASSWORD both hold a password.",
            remedy="Keep one of them; HIVEBUS_NATS_PASSWORD_FILE is safest.",
        )
    user, password = user or settings.nats_user, password or given
    if bool(user) != bool(password):
        raise StartRefused(
            "The broker's user and password go together, and one is missing.",
            remedy="Set HIVEBUS_NATS_USER and HIVEBUS_NATS_PASSWORD (or HIVEBUS_NATS_PASSWORD_FILE).",
        )
    if user and settings.nats_creds:
        raise StartRefused(
            "HIVEBUS_NATS_CREDS and a user with a password are two ways to log in.", remedy="Keep one of them."
        )
    if bool(settings.nats_cert) != bool(settings.nats_key):
        raise StartRefused("HIVEBUS_NATS_CERT and HIVEBUS_NATS_KEY go together.", remedy="Set both, or neither.")
    return Access(
        urls=tuple(f"{part.scheme}://{part.netloc.rpartition('@')[2]}" for part in parts),
        user=user,
        password=password,
        credentials=settings.nats_creds,
        tls=parts[0].scheme == "tls" or bool(settings.nats_ca or settings.nats_cert),
        ca=settings.nats_ca,
        certificate=settings.nats_cert,
        key=settings.nats_key,
    )


def _address(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("nats", "tls") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        raise _bad_url("holds what is no address") from None
    if not sound or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _bad_url("holds what is no address")
    return parts


def _bad_url(what: str) -> StartRefused:
    # The value may hold a password, so it is described and not shown.
    return StartRefused(
        f"HIVEBUS_NATS_URL {what}.",
        remedy="Write nats://host:4222 or tls://host:4222, several with commas between, the same user for all.",
    )


def _given(value: object) -> bool:
    return bool(value.get_secret_value()) if isinstance(value, SecretStr) else bool(value)
