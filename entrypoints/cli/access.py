"""`env` and `key`: how other programs reach the server that runs on this machine."""

from __future__ import annotations

import contextlib
import shlex

import click

from entrypoints.cli.failures import Exit, Failure, Unreachable
from entrypoints.cli.output import emit, fields
from entrypoints.cli.place import KEY_VARIABLE, START_IT, URL_VARIABLE, Place, locate, read_connection, read_key
from entrypoints.cli.verb import Noun, Verb, json_option
from entrypoints.paths import admin_key_file, data_dir


def env_verb() -> Verb:
    """`env`."""
    return Verb(
        "env",
        params=[json_option()],
        callback=env,
        help="""Print the address and the key of the server as lines for a shell, and what NATS clients need.

        NATS_URL, NATS_USER and NATS_PASSWORD belong to a user of the broker that may send commands and hear events.
        NATS_INBOX_PREFIX is where it hears its answers: clients set it as their inbox prefix.
        The key gives every right: keep the output out of logs.
        """,
        short_help="Print what programs need to reach the server, for a shell.",
        examples=('eval "$(hivebus env)"', "hivebus env --json | jq -r .HIVEBUS_URL"),
    )


def env(as_json: bool) -> Exit:
    """Shell-quoted, so that `eval` can do no harm."""
    place = locate()
    values = {URL_VARIABLE: place.url} | ({KEY_VARIABLE: place.key} if place.key else {}) | _nats(place)
    if as_json:
        emit(values)
    else:
        for name, value in values.items():
            click.echo(f"export {name}={shlex.quote(value)}")
    return Exit.OK


def _nats(place: Place) -> dict[str, str]:
    """What connection.json says about the broker; nothing for a server elsewhere, or one with a broker elsewhere."""
    local = place.local
    if not local:
        # The environment may hold what an earlier `env` printed: then it is the server of this machine all the same.
        with contextlib.suppress(Unreachable):
            found = read_connection(data_dir())
            local = found if found["url"].rstrip("/") == place.url else {}
    names = ("nats_url", "nats_user", "nats_password", "nats_inbox_prefix")
    return {name.upper(): str(local[name]) for name in names if name in local}


def key_noun() -> Noun:
    """`key`, and `key show`."""
    about = Verb("about", params=[json_option()], callback=describe, help="Say which admin key there is.")
    noun = Noun(
        "key",
        alone=about,
        help="Say which admin key this data directory has, and where it lies. The key itself: key show.",
        short_help="Say which admin key there is, or show it.",
        examples=("hivebus key", "hivebus key show"),
    )
    show = Verb(
        "show",
        params=[json_option()],
        callback=reveal,
        help="Print the admin key. It gives every right: keep it out of logs.",
        examples=("hivebus key show", "hivebus key show | ssh laptop 'cat > hivebus.key'"),
    )
    noun.add_command(show)
    return noun


def describe(as_json: bool) -> Exit:
    """The id, which names the key in the audit, and the path; never the secret."""
    document = {"id": key_id(_admin_key()), "path": str(admin_key_file(data_dir()))}
    if as_json:
        emit(document)
    else:
        fields(document)
    return Exit.OK


def reveal(as_json: bool) -> Exit:
    """The key itself."""
    key = _admin_key()
    if as_json:
        emit({"id": key_id(key), "key": key})
    else:
        click.echo(key)
    return Exit.OK


def key_id(key: str) -> str:
    """The public part of `hive_<id>_<secret>`."""
    parts = key.split("_", 2)
    if len(parts) != 3 or parts[0] != "hive":
        raise Failure("admin.key holds no key of Hivebus.", remedy="Remove the file: the next start makes a new key.")
    return parts[1]


def _admin_key() -> str:
    root = data_dir()
    key = read_key(root)
    if key is None:
        raise Failure(f"There is no key in {root} yet: the first start makes it.", remedy=START_IT)
    return key
