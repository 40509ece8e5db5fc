"""How attributes are read and written, and who promotes and demotes them by that."""

from atlas_db.migrations.sql import run_file

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_file(__file__)
