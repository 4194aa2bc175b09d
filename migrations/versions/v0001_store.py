"""The store: commits, streams, commands, dictionaries, the checkpoint and signed heads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

POSITION = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _commits()
    _streams_and_commands()
    for name in ("actors", "command_types"):
        op.create_table(
            name,
            sa.Column("id", POSITION, autoincrement=False, nullable=False),
            sa.Column("name", sa.Text(), nullable=False),
            sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
            sa.UniqueConstraint("name", name=f"uq_{name}_name"),
        )
    _checkpoint()
    op.create_table(
        "heads",
        sa.Column("size", POSITION, autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(32), nullable=False),
        sa.Column("signed_ms", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.LargeBinary(64), nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_heads"),
    )


def _commits() -> None:
    op.create_table(
        "commits",
        sa.Column("position", POSITION, autoincrement=False, nullable=False),
        sa.Column("stream_id", POSITION, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("commit_id", sa.LargeBinary(16)),
        sa.Column("given_id", sa.Text()),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("leaf", sa.LargeBinary(32), nullable=False),
        sa.Column("recorded_ms", sa.BigInteger(), nullable=False),
        sa.Column("command_type_id", POSITION, nullable=False),
        sa.Column("actor_id", POSITION, nullable=False),
        sa.Column("parked", sa.Text()),
        sa.PrimaryKeyConstraint("position", name="pk_commits"),
        sa.UniqueConstraint("commit_id", name="uq_commits_commit_id"),
    )
    op.create_index("ix_commits_recorded_ms", "commits", ["recorded_ms"])
    op.create_index("ix_commits_stream_id_position", "commits", ["stream_id", "position"])


def _streams_and_commands() -> None:
    op.create_table(
        "streams",
        sa.Column("id", POSITION, autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("last_position", POSITION, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_streams"),
        sa.UniqueConstraint("name", name="uq_streams_name"),
    )
    op.create_table(
        "commands",
        sa.Column("command_id", sa.LargeBinary(16), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("position", POSITION, nullable=False),
        sa.PrimaryKeyConstraint("command_id", name="pk_commands"),
        sqlite_with_rowid=False,
    )


def _checkpoint() -> None:
    table = op.create_table(
        "checkpoint",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", POSITION, nullable=False),
        sa.Column("recorded_ms", sa.BigInteger(), nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoint"),
    )
    # The row is there from the first moment: a recorder only ever moves it.
    op.bulk_insert(table, [{"id": 1, "position": 0, "recorded_ms": 0, "frontier": b""}])


def downgrade() -> None:
    for name in ("heads", "checkpoint", "command_types", "actors", "commands", "streams", "commits"):
        op.drop_table(name)
