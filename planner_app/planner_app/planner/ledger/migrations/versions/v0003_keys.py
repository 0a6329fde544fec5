"""Remember what has an Idempotency-Key, and list a client's requests without reading everybody's."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the table and the index."""
    op.create_table(
        "keys",
        sa.Column("client", sa.String, primary_key=True),
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("offerset", sa.Uuid, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_keys_created", "keys", ["created"])
    op.create_index("ix_offersets_client", "offersets", ["client", "created"])
