"""The data model: catalog, telemetry, projection, positions, ledger, row-level security, publication."""

from atlas_db.migrations.sql import run_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_file(__file__)
