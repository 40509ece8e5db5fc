"""The roles of the database may what the documented tables say, and no more."""

from pathlib import Path

import psycopg
import pytest

import atlas_db
from atlas_devstack.database import Database
from atlas_devstack.postgres.rights import rights_of

DOCUMENTED = (Path(__file__).parents[2] / "db" / "RIGHTS.md").read_text()
TELEMETRY = ("entity_values_ts", "entity_jsonb", "write_requests", "audit_log")


def rows(text: str, width: int) -> list[list[str]]:
    """The rows of the tables in the text, cell by cell."""
    cells = [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    assert all(len(row) == width for row in cells)
    return cells


def test_the_documented_rights_are_those_of_the_catalog(fresh_database: Database) -> None:
    made = rows(rights_of(fresh_database.admin_dsn), 3)
    assert made == rows(DOCUMENTED, 3), (
        "run python -m atlas_devstack.postgres.rights > db/RIGHTS.md, and look at what changed"
    )


def test_a_right_in_excess_is_found(fresh_database: Database) -> None:
    """In a table, a column, a function, a role's attributes: the comparison sees all of them."""
    with psycopg.connect(fresh_database.admin_dsn, autocommit=True) as admin:
        before = rows(rights_of(fresh_database.admin_dsn), 3)
        for right, on, who in (
            ("DELETE", "atlas.audit_log", "atlas_query"),
            ("UPDATE (actor)", "atlas.audit_log", "atlas_query"),
            ("EXECUTE", "FUNCTION atlas.staging_status()", "PUBLIC"),
            ("CREATE", "SCHEMA atlas", "atlas_query"),
        ):
            admin.execute(f"GRANT {right} ON {on} TO {who}".encode())
            found = rows(rights_of(fresh_database.admin_dsn), 3)
            admin.execute(f"REVOKE {right} ON {on} FROM {who}".encode())
            assert found != before, (right, on, who)
        assert rows(rights_of(fresh_database.admin_dsn), 3) == before


@pytest.mark.parametrize("role", atlas_db.LOGIN_ROLES)
def test_who_can_log_in_cannot_write_telemetry_or_change_the_log(role: str) -> None:
    """What holds whatever the tables are made to say."""
    held = [(right, on) for who, right, on in rows(DOCUMENTED, 3) if who == role]
    assert held, "the role is in no table"
    for right, on in held:
        if right in {"UPDATE", "DELETE", "TRUNCATE", "TRIGGER", "REFERENCES"}:
            assert not [table for table in TELEMETRY if table in on.split(", ")], (right, on)
        if right == "INSERT":
            assert not [table for table in TELEMETRY[:3] if table in on.split(", ")]
