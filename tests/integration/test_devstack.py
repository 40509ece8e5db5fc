"""The devstack itself: what it starts, it stops; what dies, comes back or is reported."""

import psycopg

from atlas_devstack.database import Database


def test_a_database_is_migrated_and_every_role_can_log_in(database: Database) -> None:
    for role in database.role_passwords:
        with psycopg.connect(database.dsn(role)) as connection:
            row = connection.execute("SELECT current_user, current_setting('timezone')").fetchone()
        assert row == (role, "UTC")


def test_a_fresh_database_has_nothing_of_another(
    fresh_database: Database, database: Database
) -> None:
    with psycopg.connect(database.admin_dsn) as connection:
        connection.execute("CREATE TABLE public.canary ()")
    with psycopg.connect(fresh_database.admin_dsn) as connection:
        row = connection.execute("SELECT to_regclass('public.canary')").fetchone()
    assert row == (None,)
