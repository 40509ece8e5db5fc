"""Policies: what is to be done again and again, how often, and what came of it last."""

from atlas_db.migrations.sql import run_file

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run_file(__file__)
