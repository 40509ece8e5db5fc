"""What each lane's latest flushes changed, for a cache that was not told."""

from atlas_db.migrations.sql import run_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_file(__file__)
