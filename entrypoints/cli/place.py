"""Where the server is, and the key for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import orjson
from msgspec import Struct

from entrypoints.cli.failures import BadInput, Failure, Unreachable
from entrypoints.paths import admin_key_file, connection_file, data_dir

URL_VARIABLE = "HIVEBUS_URL"
KEY_VARIABLE = "HIVEBUS_KEY"
START_IT = "start it: hivebus up (or make run)"


class Place(Struct, frozen=True):
    """A server's address and the key to use there. `local` is connection.json, empty for a server named by its URL."""

    url: str
    key: str | None
    local: dict[str, Any] = {}

    @property
    def parts(self) -> SplitResult:
        """The address in its parts; BadInput for anything but http(s)://host[:port][/path]."""
        parts = urlsplit(self.url)
        try:
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is none
            usable = False
        if not usable:
            raise BadInput(f"{self.url!r} is no address of a server.", remedy="Use http://HOST:PORT.")
        return parts


def locate() -> Place:
    """The server that the environment names, else the one that runs on this machine.

    The local key is never sent to an address from the environment: that address may be anybody's.
    """
    url, key = os.environ.get(URL_VARIABLE), os.environ.get(KEY_VARIABLE)
    if url:
        return Place(url.rstrip("/"), key or None)
    root = data_dir()
    local = read_connection(root)
    return Place(str(local["url"]).rstrip("/"), key or read_key(root), local)


def read_connection(root: Path) -> dict[str, Any]:
    """What the running server says about itself; Unreachable if none says anything."""
    path = connection_file(root)
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise Unreachable(f"No server runs with the data directory {root}.", remedy=START_IT) from error
    except (OSError, orjson.JSONDecodeError) as error:
        raise Unreachable(f"{path} cannot be read: {error}.", remedy=START_IT) from error
    if not isinstance(content, dict) or not isinstance(content.get("url"), str):
        raise Unreachable(f"{path} names no url.", remedy=START_IT)
    return content


def read_key(root: Path) -> str | None:
    """The admin key of a data directory; None where there is none yet."""
    path = admin_key_file(root)
    try:
        return path.read_text("utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(
            f"The key in {path} cannot be read: {error}.",
            remedy=f"Run this as the user who started the server, or set {KEY_VARIABLE}.",
        ) from error
