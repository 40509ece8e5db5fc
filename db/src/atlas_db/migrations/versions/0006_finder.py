"""What finds entities by their hot attributes sees the projection of all tenants."""

from atlas_db.migrations.sql import run_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_file(__file__)
