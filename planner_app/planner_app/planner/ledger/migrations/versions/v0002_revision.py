"""Count what is written, and keep planners of version 1 away."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the counter."""
    made = op.create_table("revision", sa.Column("written", sa.BigInteger, nullable=False))
    op.bulk_insert(made, [{"written": 0}])
    # A planner of version 1 that finds another number here stops, instead of writing past the counter.
    op.execute("DELETE FROM schema_version")
    op.execute("INSERT INTO schema_version (version) VALUES (2)")
