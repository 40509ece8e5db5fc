"""How alembic reaches the database: over the connection that atlas_db.upgrade() made."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    version_table="atlas_revision",
    version_table_schema="public",  # The schema `atlas` is itself made by the first revision.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
