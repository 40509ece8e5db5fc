"""How partitions are cut, retired and archived; the roles of maintenance and monitoring."""

from atlas_db.migrations.sql import run_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_file(__file__)
