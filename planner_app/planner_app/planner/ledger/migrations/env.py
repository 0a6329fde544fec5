"""What alembic runs: the migrations, on the connection that `migrate.upgrade` hands over."""

from alembic import context

from planner_app.planner.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
