"""The data model, its row-level security and its publication."""

from atlas_db.migrations.sql import run_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_file(__file__)
