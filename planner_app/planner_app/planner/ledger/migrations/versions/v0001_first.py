"""The tables of version 1, as planners made them before there were migrations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_LIVE = sa.text("phase IN ('OFFERED', 'ACCEPTED', 'WAITING', 'PREPARING', 'AVAILABLE', 'RELEASING')")


def upgrade() -> None:
    """Make them."""
    op.create_table("schema_version", sa.Column("version", sa.Integer, primary_key=True))
    op.create_table(
        "offersets",
        sa.Column("uuid", sa.Uuid, primary_key=True),
        sa.Column("client", sa.String, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("program", sa.Text),
        sa.Column("reasons", sa.Text, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("uuid", sa.Uuid, primary_key=True),
        sa.Column("offerset", sa.Uuid, sa.ForeignKey("offersets.uuid"), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("phase", sa.String, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("created", "modified", "expires")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("start_from", "start_until", "duration")),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("cores", "memory_gib", "disc_gb")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("reserved_from", "reserved_until")),
        sa.Column("costs", sa.Text, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("job_id", sa.String),
        sa.Column("outcome", sa.String),
        *(sa.Column(name, sa.BigInteger) for name in ("submitted", "started", "ended")),
    )
    op.create_index("ix_sessions_offerset", "sessions", ["offerset"])
    op.create_index("ix_sessions_live", "sessions", ["phase"], sqlite_where=_LIVE, postgresql_where=_LIVE)
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("session", sa.Uuid, sa.ForeignKey("sessions.uuid"), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.String, nullable=False) for name in ("phase", "level", "kind")),
        sa.Column("template", sa.Text, nullable=False),
        sa.Column("values", sa.Text, nullable=False),
    )
    op.create_index("ix_events_session", "events", ["session"])
