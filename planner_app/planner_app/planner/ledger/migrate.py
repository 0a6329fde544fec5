"""Bring a ledger up to date: reads its SQLAlchemy URL, which may hold a password, from standard input."""

import sys
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from planner_app.planner.ledger.schema import HEAD

BASE = "0001"
"""The tables of version 1, which no migration made."""


def upgrade(url: str, to: str = HEAD) -> None:
    """Run the migrations that a ledger lacks, all or none of them."""
    engine = sa.create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    try:
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _no_guessing)
            sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(5718302)"))
            config.attributes["connection"] = connection
            names = sa.inspect(connection).get_table_names()
            if "alembic_version" not in names and "schema_version" in names:
                version = connection.scalar(sa.text("SELECT version FROM schema_version"))
                if version != 1:
                    raise RuntimeError(f"the ledger has schema {version}, which is not known here")
                command.stamp(config, BASE)
            command.upgrade(config, to)
    finally:
        engine.dispose()


def _no_guessing(connection: object, _record: object) -> None:
    # The driver would commit before each CREATE TABLE.
    connection.isolation_level = None  # type: ignore[attr-defined]


def main() -> int:
    """Run from the command line; the last line of standard error says why it could not be done."""
    try:
        upgrade(sys.stdin.read().strip())
    except sa.exc.DBAPIError as error:
        print(" ".join(str(error.orig).split()), file=sys.stderr)
        return 1
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
