"""Who comes in, and from where. A browser can reach loopback, so this stands before everything that does something.

Every call needs the key but health, status, pages and their assets. A foreign Host is DNS rebinding, a foreign
Origin is another site's page; both are refused before the key is looked at.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

from msgspec import Struct
from sanic import Request

from core.kernel.errors import Forbidden, StartRefused, Unauthenticated, UnsupportedMedia
from core.kernel.registry import Scope
from core.services.dispatch import Principal
from entrypoints.paths import write_private

COOKIE = "hivebus_session"
SESSION_S = 30 * 24 * 3600
TICKET_S = 3600.0
TICKETS_MAX = 64
TICKET_S_WEBSOCKET = 60
TICKETS_MAX_WEBSOCKET = 1_000
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


class Key(Struct, frozen=True):
    """A key as its file holds it: `hive_<id>_<secret>`. The id is the actor, the secret never leaves the file."""

    id: str
    text: str

    @classmethod
    def make(cls) -> Key:
        """A new random key."""
        key_id = secrets.token_hex(4)
        return cls(key_id, f"hive_{key_id}_{secrets.token_urlsafe(32)}")

    @classmethod
    def parse(cls, text: str) -> Key:
        """The key of a file's line. Raises ValueError."""
        prefix, key_id, secret = text.strip().split("_", 2)
        if prefix != "hive" or not key_id or len(secret) < 32:
            raise ValueError("not a key of Hivebus")
        return cls(key_id, text.strip())


class Door:
    """The authenticator. One instance serves all listeners."""

    def __init__(self, key: Key, *, host_key: Key | None = None, hosts: frozenset[str] = frozenset()) -> None:
        self._principals = {_digest(key.text): Principal(f"key:{key.id}")}
        if host_key is not None:
            self._principals[_digest(host_key.text)] = Principal(f"key:{host_key.id}", frozenset({Scope.HOST}))
        self._signing = hashlib.sha256(b"session\0" + key.text.encode()).digest()
        self._owner = Principal(f"key:{key.id}")
        self._hosts = LOOPBACK | hosts
        self._tickets: OrderedDict[str, float] = OrderedDict()
        self._socket_tickets: OrderedDict[str, tuple[float, Principal]] = OrderedDict()

    def admit(self, request: Request, *, hosts: bool = False) -> Principal:
        """Who asks. Raises Forbidden for a foreign Host or Origin, Unauthenticated without a valid key.

        The key of agent hosts opens what says `hosts`, and nothing else.
        """
        self.check_origin(request)
        header = request.headers.get("authorization")
        if header is not None:
            scheme, _, text = header.partition(" ")
            principal = self._principals.get(_digest(text.strip())) if scheme.lower() == "bearer" else None
        else:
            principal = self._session(request)
        if principal is None:
            raise Unauthenticated(
                "This call needs the key." if header is None else "This key is not known here.",
                remedy="Send `Authorization: Bearer <key>`; `hivebus env` prints it.",
            )
        if not hosts and Scope.CLIENT not in principal.scopes:
            raise Forbidden("The key of agent hosts is good for blobs only.", remedy="Use the key of admin.key.")
        return principal

    def check_origin(self, request: Request) -> None:
        """Raises Forbidden unless Host is known and Origin, if there is one, is this very host."""
        host = request.headers.get("host", "")
        if _name_of(host) not in self._hosts:
            raise Forbidden(
                f"The host {host!r} is not known here.",
                code="forbidden_host",
                remedy="Call 127.0.0.1 or localhost, or name the host in HIVEBUS_ALLOWED_HOSTS.",
            )
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Forbidden(
                f"A page of {origin!r} may not call this API.",
                code="forbidden_origin",
                remedy="Open the page that Hivebus serves, or call without a browser.",
            )

    # --- sessions of browsers ---

    def ticket(self) -> str:
        """A one-time word, good for an hour, that the page swaps for a cookie."""
        ticket = secrets.token_urlsafe(24)
        self._tickets[ticket] = time.monotonic() + TICKET_S
        if len(self._tickets) > TICKETS_MAX:
            self._tickets.popitem(last=False)
        return ticket

    def session_for(self, *, ticket: str | None, key: str | None) -> str:
        """The cookie for a ticket or a key. A ticket works once."""
        by_key = key is not None and _digest(key.strip()) in self._principals
        expires = self._tickets.pop(ticket, 0.0) if ticket is not None else 0.0
        if not by_key and expires < time.monotonic():
            raise Unauthenticated(
                "This link was used already, or is older than an hour." if ticket else "This key is not known here.",
                remedy="Paste the key that `hivebus key show` prints.",
            )
        until = str(int(time.time()) + SESSION_S)
        return f"{until}.{self._sign(until)}"

    # --- WebSockets of browsers ---

    def socket_ticket(self, principal: Principal) -> str:
        """A one-time word, good for a minute, that opens a WebSocket as this principal. At most 1,000 wait."""
        ticket = secrets.token_urlsafe(24)
        self._socket_tickets[ticket] = time.monotonic() + TICKET_S_WEBSOCKET, principal
        if len(self._socket_tickets) > TICKETS_MAX_WEBSOCKET:
            self._socket_tickets.popitem(last=False)
        return ticket

    def by_ticket(self, ticket: str) -> Principal:
        """Who comes with a ticket, which works once. Raises Unauthenticated."""
        expires, principal = self._socket_tickets.pop(ticket, (0.0, None))
        if principal is None or expires < time.monotonic():
            raise Unauthenticated(
                "This ticket was used already, or is older than a minute.", remedy="POST /api/ticket gives another."
            )
        return principal

    def _session(self, request: Request) -> Principal | None:
        cookie = request.cookies.get(COOKIE)
        if not cookie:
            return None
        until, _, signature = cookie.partition(".")
        # The signature first: only what this program wrote is read as a number.
        if not hmac.compare_digest(_bytes(signature), _bytes(self._sign(until))) or int(until) < time.time():
            return None
        return self._owner

    def _sign(self, until: str) -> str:
        return hmac.new(self._signing, _bytes(until), hashlib.sha256).hexdigest()


def check_media(request: Request, *allowed: str) -> None:
    """Raises UnsupportedMedia unless the body's type is one of these: a page's form cannot send them."""
    media = media_of(request)
    if media not in allowed:
        raise UnsupportedMedia(
            f"A body of type {media!r} is not taken here." if media else "The body's type is not said.",
            remedy=f"Send Content-Type: {' or '.join(allowed)}.",
        )


def media_of(request: Request) -> str:
    """The body's media type without its parameters, in lower case; empty where the request names none."""
    return _media(request.headers.get("content-type", ""))


@lru_cache(maxsize=256)
def _media(text: str) -> str:
    return text.partition(";")[0].strip().lower()


def load_key(path: Path) -> Key:
    """The key of a data directory, made at the first start with mode 0600."""
    try:
        return Key.parse(path.read_text())
    except FileNotFoundError:
        key = Key.make()
        write_private(path, key.text + "\n")
        return key
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no key"
        raise StartRefused(
            f"The key in {path} cannot be read: {reason}.",
            remedy="Put the key back, or remove the file: the next start makes a new key.",
        ) from None


def _bytes(text: str) -> bytes:
    """Text of a header as its bytes: sanic hands over what is no UTF-8 as surrogates."""
    return text.encode(errors="surrogateescape")


def _digest(text: str) -> bytes:
    return hashlib.sha256(_bytes(text)).digest()


@lru_cache(maxsize=256)
def _name_of(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
