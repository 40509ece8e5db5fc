"""The kinds of connection, and how one is opened."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any, NewType

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from atlas_common import errors
from atlas_common.config import DatabaseConfig
from atlas_common.secrets import login_source

Connection = AsyncConnection[TupleRow]

_GONE_SECONDS = 0.5

# What a store's function asks for tells what it does: one that takes a ReadConnection cannot be
# given to code that needs to write, and a WriteConnection reads as well.
ReadConnection = NewType("ReadConnection", AsyncConnection[TupleRow])
WriteConnection = NewType("WriteConnection", ReadConnection)


class Isolation(Enum):
    """Isolation levels, as SQL spells them."""

    READ_COMMITTED = "READ COMMITTED"
    REPEATABLE_READ = "REPEATABLE READ"
    SERIALIZABLE = "SERIALIZABLE"


def connect_arguments(config: DatabaseConfig, name: str) -> dict[str, Any]:
    """Keyword arguments for psycopg's connect: the DSN's own words, the login, then our bounds.

    Of this moment: ask again for each connection. Raises ValueError for a login never read.
    """
    given = {**conninfo_to_dict(config.dsn.get_secret_value()), **_login(config)}
    arguments: dict[str, Any] = {
        "application_name": f"atlas {name}",
        "connect_timeout": config.connect_timeout_seconds,
        # A server that vanishes without a word (power, network) is noticed in about ten seconds.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        **given,
        "autocommit": True,  # Transactions are begun by hand, with their settings, in one trip.
        "prepare_threshold": None if config.pooler else config.prepare_threshold,
    }
    if not config.pooler:  # Poolers refuse startup options; there each transaction sets them.
        options = " ".join(f"-c {setting}={value}" for setting, value in bounds(config).items())
        arguments["options"] = f"{given.get('options') or ''} {options}".strip()
    return arguments


def bounds(config: DatabaseConfig) -> dict[str, str]:
    """Server settings that put an end to what takes too long, in milliseconds."""
    return {
        "statement_timeout": _ms(config.statement_timeout_seconds),
        "lock_timeout": _ms(config.lock_timeout_seconds),
        "idle_in_transaction_session_timeout": _ms(config.idle_in_transaction_timeout_seconds),
        # A statement whose client has closed the connection runs on, and holds its locks, until it
        # wants to answer. That client may be dead, or was cancelled twice: a call's work ends just
        # before its deadline, which then cuts short the request to cancel the statement.
        "client_connection_check_interval": _ms(_GONE_SECONDS),
    }


def lifetime_seconds(config: DatabaseConfig) -> float:
    """How old a pooled connection may become: so that it does not outlive a login with a lease."""
    lifetime = config.connection_lifetime_seconds
    if config.password_source is None:
        return lifetime
    bound = login_source(config.password_source).session_seconds_max
    return lifetime if bound is None else min(lifetime, bound)


@asynccontextmanager
async def direct_connection(config: DatabaseConfig, *, name: str) -> AsyncIterator[Connection]:
    """A session of its own in autocommit, for advisory locks and COPY; closed with the block.

    Raises ServiceError UNAVAILABLE / DEPENDENCY_UNAVAILABLE when the server is away.
    """
    try:
        connection = await _connected(config, name)
    except psycopg.OperationalError as error:
        raise away(name) from error
    try:
        yield connection
    finally:
        await connection.close()


def away(name: str) -> errors.ServiceError:
    """The error of a server that cannot be reached."""
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE", "the database is away", retry_after=0.5, database=name
    )


async def _connected(config: DatabaseConfig, name: str) -> Connection:
    """Tries once more when the login was rotated since it was read."""
    login = _login(config)
    try:
        return await AsyncConnection.connect(**connect_arguments(config, name))
    except psycopg.OperationalError:
        if _login(config) == login:
            raise
    return await AsyncConnection.connect(**connect_arguments(config, name))


def _login(config: DatabaseConfig) -> dict[str, str]:
    if config.password_source is None:
        return {}
    login = login_source(config.password_source).read()
    user = {} if login.username is None else {"user": login.username}
    return {**user, "password": login.password.get_secret_value()}


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))
