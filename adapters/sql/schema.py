"""The tables of the store: the system of record, one row per commit of the log, never trimmed, and what proves it.

Ids of streams, actors and command types are the position of the commit that brought them first: unique, growing, the
same after every rebuild, and known before the row is written, so that no insert has to hand a key back.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

# Only INTEGER PRIMARY KEY is SQLite's row id; a BIGINT key would cost a second tree.
POSITION = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

commits = Table(
    "commits",
    metadata,
    Column("position", POSITION, primary_key=True, autoincrement=False),
    Column("stream_id", POSITION, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("commit_id", LargeBinary(16), unique=True),
    # The id as the log gave it where `commit_id` cannot hold it (parked): the log can be restored byte for byte.
    Column("given_id", Text),
    Column("body", LargeBinary, nullable=False),
    Column("leaf", LargeBinary(32), nullable=False),
    Column("recorded_ms", BigInteger, nullable=False),
    Column("command_type_id", POSITION, nullable=False),
    Column("actor_id", POSITION, nullable=False),
    Column("parked", Text),
    Index(None, "recorded_ms"),
    Index(None, "stream_id", "position"),
)

streams = Table(
    "streams",
    metadata,
    Column("id", POSITION, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
    Column("version", BigInteger, nullable=False),
    Column("last_position", POSITION, nullable=False),
)

commands = Table(
    "commands",
    metadata,
    Column("command_id", LargeBinary(16), primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("position", POSITION, nullable=False),
    sqlite_with_rowid=False,
)

actors = Table(
    "actors",
    metadata,
    Column("id", POSITION, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
)

command_types = Table(
    "command_types",
    metadata,
    Column("id", POSITION, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", POSITION, nullable=False),
    Column("recorded_ms", BigInteger, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
)

heads = Table(
    "heads",
    metadata,
    Column("size", POSITION, primary_key=True, autoincrement=False),
    Column("root", LargeBinary(32), nullable=False),
    Column("signed_ms", BigInteger, nullable=False),
    Column("signature", LargeBinary(64), nullable=False),
    Column("key_id", String(16), nullable=False),
)

trims = Table(
    "trims",
    metadata,
    Column("at_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("trimmed_to", POSITION, nullable=False),
    Column("actor", Text, nullable=False),
)
