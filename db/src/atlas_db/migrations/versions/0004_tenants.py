"""Tenants can be changed by ingest, which keeps the catalog."""

from atlas_db.migrations.sql import run_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_file(__file__)
