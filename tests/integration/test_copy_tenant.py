"""A tenant's rows are copied from one cluster's database into another: what is missing, once."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from atlas_devstack.database import Database, another

from .conftest import make_two_tenants

SCRIPT = Path(__file__).parents[2] / "ops" / "recovery" / "copy-tenant"
HOURS, POINTS = 3, 20
FILL = """
INSERT INTO atlas.entity_values_ts
    (tenant_id, entity_id, attribute_id, event_time, ingested_at, value_double, value_json)
SELECT t, 1 + n %% 2, 1, '2026-03-01Z', '2026-03-01Z'::timestamptz + h * interval '1 hour',
    CASE WHEN n > 4 THEN n %% 7 END, CASE WHEN n <= 4 THEN '{"a": 1.0}'::jsonb END
FROM generate_series(1, 2) AS t, generate_series(0, %s) AS h, generate_series(1, %s) AS n
"""
# By name: numbers may differ.
CONTENT = """
SELECT t.key, e.key, a.name, v.event_time, v.ingested_at, v.value_double, v.value_json::text
FROM atlas.entity_values_ts AS v JOIN atlas.tenants AS t USING (tenant_id)
JOIN atlas.entities AS e USING (tenant_id, entity_id)
JOIN atlas.attributes AS a USING (tenant_id, attribute_id)
ORDER BY 1, 2, 3, 4, 5, 6, 7
"""


@pytest.fixture
def restored(database: Database) -> Iterator[Database]:
    with another(database) as own:
        fill(own)
        yield own


@pytest.fixture
def running(database: Database) -> Iterator[Database]:
    with another(database) as own:
        fill(own)
        yield own


def fill(database: Database) -> None:
    """Two tenants with the same points, some of them equal, over some hours."""
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        make_two_tenants(admin)
        admin.execute(FILL, [HOURS - 1, POINTS])


def content(database: Database) -> list[tuple[object, ...]]:
    with psycopg.connect(database.admin_dsn) as admin:
        return admin.execute(CONTENT).fetchall()


def copy(restored: Database, running: Database, *arguments: str) -> str:
    """What the script said last."""
    said = subprocess.run(
        [sys.executable, SCRIPT, "--tenant", "acme", *arguments],
        env={"ATLAS_RESTORED_DSN": restored.admin_dsn, "ATLAS_ADMIN_DSN": running.admin_dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    return said.stdout.splitlines()[-1]


def test_what_is_missing_is_copied_once_and_under_its_name(
    restored: Database, running: Database
) -> None:
    whole = content(restored)
    with psycopg.connect(running.admin_dsn, autocommit=True) as admin:
        admin.execute("DELETE FROM atlas.entity_values_ts WHERE tenant_id = 1 AND value_double < 5")
        # An entity was deleted, and has come back under another number.
        admin.execute("DELETE FROM atlas.entity_values_ts WHERE tenant_id = 1 AND entity_id = 2")
        admin.execute("DELETE FROM atlas.entities WHERE tenant_id = 1 AND key = 'pump-2'")
        admin.execute(
            "INSERT INTO atlas.entities (tenant_id, entity_id, key) VALUES (1, 1000, 'pump-2')"
        )
        # The other tenant's loss is not this tenant's.
        admin.execute("DELETE FROM atlas.entity_values_ts WHERE tenant_id = 2 AND entity_id = 2")
    left = content(running)
    missing = len([row for row in whole if row[0] == "acme"]) - len(
        [row for row in left if row[0] == "acme"]
    )
    assert copy(restored, running, "--dry-run").endswith(
        f"{missing} points of acme are missing; nothing was changed"
    )
    assert content(running) == left
    until = ("--until", "2026-03-01T01:00:00Z")
    assert not copy(restored, running, *until).endswith(f" {missing} points of acme copied")
    copy(restored, running)
    assert copy(restored, running).endswith(" 0 points of acme copied")
    after = content(running)
    assert [row for row in after if row[0] == "acme"] == [row for row in whole if row[0] == "acme"]
    others = [row for row in left if row[0] != "acme"]
    assert [row for row in after if row[0] != "acme"] == others


def test_another_past_is_refused(restored: Database, running: Database) -> None:
    with psycopg.connect(running.admin_dsn, autocommit=True) as admin:
        admin.execute("UPDATE atlas.tenants SET tenant_id = 77 WHERE key = 'acme'")
    with pytest.raises(AssertionError, match="not the same cluster's past"):
        copy(restored, running)


def test_a_role_that_sees_nothing_is_refused(restored: Database, running: Database) -> None:
    blind = Database(restored.dsn("atlas_query"), {})
    with pytest.raises(AssertionError, match="does not bypass row-level security"):
        copy(blind, running)
