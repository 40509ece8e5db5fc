"""Cold attributes that are indexed: which, and how far their indexes are."""

from atlas_db.migrations.sql import run_file

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_file(__file__)
