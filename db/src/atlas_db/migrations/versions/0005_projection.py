"""The projection's administration: attributes in transition, jobs, and who runs them."""

from atlas_db.migrations.sql import run_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_file(__file__)
