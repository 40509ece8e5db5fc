"""Tenants may have quotas of their own."""

from atlas_db.migrations.sql import run_file

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_file(__file__)
