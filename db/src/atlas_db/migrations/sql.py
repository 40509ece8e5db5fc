"""A revision's statements stand in the .sql file beside its .py file."""

from pathlib import Path

from alembic import op


def run_file(revision_file: str) -> None:
    """Run the SQL file that belongs to a revision, as it stands, in the revision's transaction."""
    statements = Path(revision_file).with_suffix(".sql").read_bytes()
    # Past SQLAlchemy, which would read the % of format() as placeholders.
    driver_connection = op.get_bind().connection.driver_connection
    assert driver_connection is not None
    driver_connection.execute(statements)
