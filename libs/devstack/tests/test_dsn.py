"""DSNs keep everything but what is replaced."""

import pytest
from psycopg.conninfo import conninfo_to_dict

from atlas_devstack.dsn import dsn_as, make_dsn, whoever_writes, with_database

AWKWARD = "p@ss:w/o?r#d%&'\" \\"


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://admin:secret@db.example:6432/atlas?sslmode=require&application_name=a%20b",
        "host=db.example port=6432 user=admin password=secret dbname=atlas sslmode=require"
        " application_name='a b'",
        "postgresql://admin:secret@[::1]:6432/atlas?sslmode=require&application_name=a%20b",
        "host=/run/postgresql port=6432 user=admin dbname=atlas sslmode=require"
        " application_name='a b'",
        "postgresql://admin@a.example:1,b.example:2/atlas?sslmode=require&application_name=a%20b",
    ],
)
def test_another_role_on_the_same_server(dsn: str) -> None:
    before = conninfo_to_dict(dsn)
    after = conninfo_to_dict(dsn_as(dsn, user="atlas_query", password=AWKWARD))
    assert after == {**before, "user": "atlas_query", "password": AWKWARD}


def test_another_database_on_the_same_server() -> None:
    dsn = make_dsn(user="admin", password=AWKWARD, port=6432, database="atlas")
    assert conninfo_to_dict(with_database(dsn, "an other")) == {
        "host": "127.0.0.1",
        "port": "6432",
        "user": "admin",
        "password": AWKWARD,
        "dbname": "an other",
    }


def test_several_servers_and_the_one_that_writes() -> None:
    ones = [make_dsn(user="u", password=AWKWARD, port=port, database="atlas") for port in (1, 2)]
    assert conninfo_to_dict(whoever_writes(ones)) == {
        "host": "127.0.0.1,127.0.0.1",
        "port": "1,2",
        "user": "u",
        "password": AWKWARD,
        "dbname": "atlas",
        "target_session_attrs": "read-write",
    }
