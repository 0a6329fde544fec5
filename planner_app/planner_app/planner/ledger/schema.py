"""The tables of a ledger as they are now; `migrations/` tells how older ones become so."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from planner_app.execution_broker.models import Phase

HEAD = "0003"
"""The latest migration: what a ledger has that this planner can use."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class _Instant(sa.types.TypeDecorator[datetime]):
    """An instant as microseconds since 1970 UTC: exact, and sorts as it should in every database."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else _EPOCH + value * _MICROSECOND


class _Span(sa.types.TypeDecorator[timedelta]):
    """A duration as microseconds."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else value // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> timedelta | None:
        return None if value is None else value * _MICROSECOND


class _PhaseName(sa.types.TypeDecorator[Phase]):
    """A phase by its name; drivers have their own ideas of what an enumeration is."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: Phase | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value.value

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Phase | None:
        return None if value is None else Phase(value)


metadata = sa.MetaData()

# How often the ledger was written. Each transaction that writes raises it first: so they come one after the
# other whatever the database, and a planner sees when somebody else wrote since it last looked.
revision = sa.Table("revision", metadata, sa.Column("written", sa.BigInteger, nullable=False))

offersets = sa.Table(
    "offersets",
    metadata,
    sa.Column("uuid", sa.Uuid, primary_key=True),
    sa.Column("client", sa.String, nullable=False),
    sa.Column("created", _Instant, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("program", sa.Text, nullable=True),
    sa.Column("reasons", sa.Text, nullable=False),
)

# A client's own list is read from its end, a page at a time.
sa.Index("ix_offersets_client", offersets.c.client, offersets.c.created)

# What each Idempotency-Key was used for. The offer set is named before it is made, and may never be.
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("client", sa.String, primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("offerset", sa.Uuid, nullable=False),
    sa.Column("created", _Instant, nullable=False, index=True),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("uuid", sa.Uuid, primary_key=True),
    sa.Column("offerset", sa.Uuid, sa.ForeignKey("offersets.uuid"), nullable=False, index=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("phase", _PhaseName, nullable=False),
    sa.Column("created", _Instant, nullable=False),
    sa.Column("modified", _Instant, nullable=False),
    sa.Column("expires", _Instant, nullable=False),
    sa.Column("start_from", _Instant, nullable=False),
    sa.Column("start_until", _Instant, nullable=False),
    sa.Column("duration", _Span, nullable=False),
    sa.Column("cores", sa.Integer, nullable=False),
    sa.Column("memory_gib", sa.Integer, nullable=False),
    sa.Column("disc_gb", sa.Integer, nullable=False),
    sa.Column("reserved_from", _Instant, nullable=False),
    sa.Column("reserved_until", _Instant, nullable=False),
    sa.Column("costs", sa.Text, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("job_id", sa.String),
    sa.Column("outcome", _PhaseName),
    sa.Column("submitted", _Instant),
    sa.Column("started", _Instant),
    sa.Column("ended", _Instant),
)

# Few rows of many live at a time; the index holds these alone.
_LIVE = (Phase.OFFERED, Phase.ACCEPTED, Phase.WAITING, Phase.PREPARING, Phase.AVAILABLE, Phase.RELEASING)
is_live = sessions.c.phase.in_(sa.literal_column(f"'{phase}'") for phase in _LIVE)
_index = sa.Index("ix_sessions_live", sessions.c.phase, sqlite_where=is_live)


@sa.event.listens_for(metadata, "before_create")
def _before_create(_: sa.MetaData, connection: sa.Connection, **_more: object) -> None:
    # Said above it would load PostgreSQL's dialect: 3 MB in each of many planners, whose ledgers are SQLite's.
    if connection.dialect.name == "postgresql":
        _index.dialect_kwargs["postgresql_where"] = is_live


events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("session", sa.Uuid, sa.ForeignKey("sessions.uuid"), nullable=False, index=True),
    sa.Column("time", _Instant, nullable=False),
    sa.Column("phase", _PhaseName, nullable=False),
    sa.Column("level", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("template", sa.Text, nullable=False),
    sa.Column("values", sa.Text, nullable=False),
)
