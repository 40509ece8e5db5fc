"""The audit log: who did which administrative act, when, by which request."""

from atlas_db.migrations.sql import run_file

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_file(__file__)
