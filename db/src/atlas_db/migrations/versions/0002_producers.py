"""Producers' positions, dead letters of ingest, what a staged batch carries; retention classes."""

from atlas_db.migrations.sql import run_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_file(__file__)
