"""A service refuses to run with more rights than it needs: one that is broken into can do less."""

from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from atlas_common.db.connection import Connection, ReadConnection, WriteConnection
from atlas_common.db.database import Database
from atlas_common.db.queries import load_queries
from atlas_common.errors import FatalError

Check = Callable[[], Awaitable[None]]

_QUERIES = load_queries("atlas_common.db")
_ATTRIBUTES = {  # Column of role_attributes, in its order -> the word for it.
    "rolsuper": "SUPERUSER",
    "rolbypassrls": "BYPASSRLS",
    "rolcreaterole": "CREATEROLE",
    "rolcreatedb": "CREATEDB",
    "rolreplication": "REPLICATION",
}


async def check(
    connection: Connection | ReadConnection | WriteConnection, *, replication: bool = False
) -> None:
    """Raise FatalError, naming each right in excess and the statement that takes it away.

    `replication`: this service reads the WAL and needs the attribute REPLICATION.
    """
    problems = await excess(connection, replication=replication)
    if problems:
        raise FatalError("the database role has rights in excess: " + "; ".join(problems))


def guard(database: Database, *, replication: bool = False) -> Check:
    """`check` as a readiness check: looks once the server can be reached, then costs nothing."""
    verified = False

    async def verify() -> None:
        nonlocal verified
        if not verified:
            async with database.transaction(read_only=True) as connection:
                await check(connection, replication=replication)
            verified = True

    return verify


async def excess(
    connection: Connection | ReadConnection | WriteConnection, *, replication: bool
) -> list[str]:
    """The rights in excess, each with its remedy; at most ten of a kind."""
    role, problems = await _attributes(connection, replication)
    if problems and "SUPERUSER" in problems[0]:
        return problems  # A superuser owns and belongs to everything: the rest would be noise.
    for (other,) in await _rows(connection, "excess_memberships"):
        problems.append(f"membership in {other} (REVOKE {_name(other)} FROM {_name(role)})")
    for relation, owner in await _rows(connection, "owned_relations"):
        remedy = (
            f"ALTER TABLE {relation} OWNER TO <owner>"
            if owner == role
            else f"REVOKE {_name(owner)} FROM {_name(role)}"
        )
        problems.append(f"ownership of {relation} ({remedy})")
    for relation, grantee in await _rows(connection, "partition_grants"):
        who = grantee if grantee == "PUBLIC" else _name(grantee)
        problems.append(f"grants on partition {relation} (REVOKE ALL ON {relation} FROM {who})")
    return problems


async def _attributes(
    connection: psycopg.AsyncConnection[Any], replication: bool
) -> tuple[str, list[str]]:
    ((role, *flags),) = await _rows(connection, "role_attributes")
    problems = [
        f"{word} (ALTER ROLE {_name(role)} NO{word})"
        for word, has in zip(_ATTRIBUTES.values(), flags, strict=True)
        if has and not (replication and word == "REPLICATION")
    ]
    return role, problems


async def _rows(connection: psycopg.AsyncConnection[Any], query: str) -> list[Any]:
    # Parameters, although there are none: the file writes a literal percent sign as two.
    cursor = await connection.execute(_QUERIES[query], {})
    return await cursor.fetchall()


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
