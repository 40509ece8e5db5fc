"""The schema keeps its own rules, and is what the migrations make."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import atlas_db
from atlas_common.db import load_queries
from atlas_devstack.database import Database
from atlas_devstack.postgres.dump import schema_of

ROOT = Path(__file__).parents[2]
SERVICE_QUERIES = [
    ("atlas_ingest", "atlas_ingest"),
    ("atlas_ingest.policies", "atlas_ingest"),
    *(
        ("atlas_common.maintenance", role)
        for role in ("atlas_ingest", "atlas_hotcache", "atlas_reconciler")
    ),
    ("atlas_hotcache", "atlas_hotcache"),
    ("atlas_hotcache.projection", "atlas_hotcache"),
    ("atlas_hotcache.indexing", "atlas_hotcache"),
    ("atlas_hotcache.promotion", "atlas_hotcache"),
    ("atlas_query", "atlas_query"),
    ("atlas_cdc_reconciler", "atlas_reconciler"),
]
SHARED_QUERIES = ["atlas_common.db", "atlas_common.catalog"]
TENANT_TABLES = """
    SELECT c.oid::regclass::text, c.oid FROM pg_class AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
    WHERE c.relnamespace = 'atlas'::regnamespace AND c.relkind IN ('r', 'p')
"""


def rows(dsn: str, query: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query).fetchall()


def skip_unless_dumps_compare(database: Database) -> None:
    with psycopg.connect(database.admin_dsn) as connection:
        if connection.info.server_version < 180000:
            # schema.sql is of version 18; and the roles of a policy come in no fixed order before.
            pytest.skip("dumps can be compared on PostgreSQL 18 only")


def test_the_migrations_make_the_committed_schema(fresh_database: Database) -> None:
    skip_unless_dumps_compare(fresh_database)
    made = schema_of(fresh_database.admin_dsn)
    committed = (ROOT / "db" / "schema.sql").read_text()
    assert made == committed, "run python -m atlas_devstack.postgres.dump > db/schema.sql"


def test_upgrading_again_changes_nothing(fresh_database: Database) -> None:
    skip_unless_dumps_compare(fresh_database)
    before = schema_of(fresh_database.admin_dsn)
    atlas_db.upgrade(fresh_database.admin_dsn)
    assert schema_of(fresh_database.admin_dsn) == before


@pytest.mark.parametrize(("package", "role"), SERVICE_QUERIES)
def test_every_named_query_prepares_as_its_service(
    database: Database, package: str, role: str
) -> None:
    with psycopg.connect(database.dsn(role), autocommit=True) as connection:
        queries = dict(load_queries(package))
        assert queries
        for source in (package, *SHARED_QUERIES[1:]):
            for name, query in load_queries(source).items():
                prepare(connection, f"{source}/{name}", query.decode())


def prepare(connection: psycopg.Connection[Any], name: str, query: str) -> None:
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${numbers.setdefault(match[1], len(numbers) + 1)}"

    statement = re.sub(r"%\((\w+)\)s", number, query).replace("%%", "%")
    try:
        connection.execute(f"PREPARE checked AS {statement}".encode())
    except psycopg.Error as error:
        pytest.fail(f"{name} does not prepare: {error}")
    connection.execute("DEALLOCATE checked")


def test_every_tenant_table_forces_row_level_security(database: Database) -> None:
    tables = rows(
        database.admin_dsn,
        "SELECT name, relrowsecurity, relforcerowsecurity"
        f" FROM ({TENANT_TABLES}) AS t(name, oid) JOIN pg_class USING (oid)",
    )
    names = {name for name, _, _ in tables}
    assert {"entity_values_ts", "entity_jsonb", "entities", "entity_values_ts_default"} <= names
    assert [name for name, enabled, forced in tables if not (enabled and forced)] == []


def test_every_unique_index_of_a_tenant_table_contains_the_tenant(database: Database) -> None:
    # Not the registry of tenants: its key is what names a tenant in the first place.
    without = rows(
        database.admin_dsn,
        f"""
        SELECT i.indexrelid::regclass::text FROM ({TENANT_TABLES}) AS t(name, oid)
        JOIN pg_index AS i ON i.indrelid = t.oid AND i.indisunique
        JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attname = 'tenant_id'
        WHERE a.attnum <> ALL (i.indkey) AND t.name <> 'tenants'
        """,
    )
    assert without == []


def test_tenant_tables_have_no_triggers(database: Database) -> None:
    assert (
        rows(
            database.admin_dsn,
            f"SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN"
            f" (SELECT oid FROM ({TENANT_TABLES}) AS t(name, oid))",
        )
        == []
    )


def test_service_roles_own_nothing_and_nobody_may_touch_partitions(database: Database) -> None:
    owners = ("atlas_flusher", "atlas_finder", "atlas_projector", "atlas_meter")
    roles = ", ".join(f"'{role}'" for role in (*atlas_db.SERVICE_ROLES, *owners))
    owned = rows(
        database.admin_dsn,
        "SELECT relname FROM pg_class JOIN pg_roles ON pg_roles.oid = relowner"
        f" WHERE relnamespace = 'atlas'::regnamespace AND rolname IN ({roles})",
    )
    granted = rows(
        database.admin_dsn,
        "SELECT relname, rolname, privilege FROM pg_class, pg_roles,"
        " unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS privilege"
        f" WHERE relispartition AND relkind = 'r' AND rolname IN ({roles})"
        " AND has_table_privilege(rolname, pg_class.oid, privilege)",
    )
    assert (owned, granted) == ([], [])


def test_nothing_is_public(database: Database) -> None:
    functions = rows(
        database.admin_dsn,
        "SELECT p.oid::regprocedure::text FROM pg_proc AS p, aclexplode(p.proacl) AS acl"
        " WHERE pronamespace = 'atlas'::regnamespace AND acl.grantee = 0",
    )
    assert functions == []


def test_the_migration_job_explains_itself(database: Database) -> None:
    job = ["-m", "atlas_db"]
    helped = run_python(*job, "--help")
    assert "ATLAS_ADMIN_DSN" in helped.stdout
    without = run_python(*job, environment={"ATLAS_ADMIN_DSN": ""})
    assert (without.returncode, "ATLAS_ADMIN_DSN is not set" in without.stderr) == (2, True)
    again = run_python(*job, environment={"ATLAS_ADMIN_DSN": database.admin_dsn})
    assert (again.returncode, again.stderr) == (0, "")


def test_the_migration_job_takes_passwords_from_files(database: Database, tmp_path: Path) -> None:
    """So does a container, whose environment everybody sees who may ask the engine."""
    admin = conninfo_to_dict(database.admin_dsn)
    password_file, roles_file = tmp_path / "admin", tmp_path / "roles"
    password_file.write_text(f"{admin.pop('password')}\n")
    given = database.role_passwords["atlas_query"]
    roles_file.write_text(json.dumps({"atlas_query": given}))
    environment = {
        "ATLAS_ADMIN_DSN": make_conninfo("", **admin),
        "ATLAS_ADMIN_PASSWORD_FILE": str(password_file),
        "ATLAS_ROLE_PASSWORDS_FILE": str(roles_file),
    }
    with psycopg.connect(database.admin_dsn, autocommit=True) as connection:
        connection.execute("ALTER ROLE atlas_query PASSWORD NULL")
    done = run_python("-m", "atlas_db", environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(database.dsn("atlas_query"), "SELECT current_user") == [("atlas_query",)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"atlas_query": "canary4711', "is not as"),
        ('["canary4711"]', "is not as"),
        ('{"atlas_query": {"password": "canary4711"}}', "is not as"),
        ('{"atlas_qery": "canary4711"}', "no role is called atlas_qery"),
        (None, "No such file"),
    ],
)
def test_passwords_that_cannot_be_used_are_refused_untold(
    tmp_path: Path, content: str | None, told: str
) -> None:
    file = tmp_path / "roles"
    if content is not None:
        file.write_text(content)
    environment = {"ATLAS_ADMIN_DSN": "host=nowhere", "ATLAS_ROLE_PASSWORDS_FILE": str(file)}
    refused = run_python("-m", "atlas_db", environment=environment)
    assert refused.returncode == 2
    assert f"ATLAS_ROLE_PASSWORDS_FILE: {file}" in refused.stderr
    assert told in refused.stderr
    assert "canary4711" not in refused.stderr


def run_python(
    *arguments: str, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
