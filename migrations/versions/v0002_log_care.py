"""The care of the log: which key signed a head, and how far the log was trimmed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

POSITION = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # Nothing has signed a head before this revision, so the empty table is made anew with its last column.
    op.drop_table("heads")
    op.create_table(
        "heads",
        sa.Column("size", POSITION, autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(32), nullable=False),
        sa.Column("signed_ms", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.LargeBinary(64), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_heads"),
    )
    op.create_table(
        "trims",
        sa.Column("at_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("trimmed_to", POSITION, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("at_ms", name="pk_trims"),
    )


def downgrade() -> None:
    op.drop_table("trims")
    with op.batch_alter_table("heads") as heads:
        heads.drop_column("key_id")
