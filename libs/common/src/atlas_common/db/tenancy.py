"""The only door to tenants' data: a transaction that says whose it is.

Row-level security compares every row with the setting `atlas.tenant_id`. It is set by a top-level
SET LOCAL: it ends with the transaction, so a pooled session cannot carry it to another tenant, and
on Citus it reaches the workers, which `set_config()` does not.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, overload

import psycopg
from psycopg.pq import TransactionStatus

from atlas_common import sqlstate
from atlas_common.db.connection import Connection, Isolation, ReadConnection, WriteConnection
from atlas_common.db.database import Database
from atlas_common.db.transaction import Begun, begin_sql, begun
from atlas_common.errors import ServiceError
from atlas_common.tenant import TENANT_ID_MAX, Tenant
from atlas_common.token import Position


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat that a copy holds: all that was committed before `beaten_at` is in that copy."""

    beat_id: int
    beaten_at: datetime

    @property
    def timeline(self) -> int:
        """Of the primary that beat: a promotion begins a new one, and its beats are greater."""
        return self.beat_id >> 32


NO_BEAT = Beat(0, datetime.fromtimestamp(0, UTC))


@dataclass(frozen=True, slots=True)
class Freshness:
    """What a copy must hold to be read: a heartbeat of `not_before` or later, and the positions."""

    not_before: datetime | None = None
    positions: tuple[Position, ...] = ()

    def __post_init__(self) -> None:
        if self.not_before is not None and self.not_before.tzinfo is None:
            raise ValueError("not_before needs a time zone")


class BehindError(ServiceError):
    """This copy does not hold yet what was asked for: wait, or read another."""


class PositionLostError(ServiceError):
    """A position asked for is gone for good."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A read-only transaction with one view of the data, and how fresh that view is.

    `begun_at`: when it began by the server's clock; `positions`: how far each lane is flushed in
    it; `timeline`: that the server writes, None if it is in recovery.
    """

    connection: ReadConnection
    beat: Beat
    begun_at: datetime
    positions: tuple[Position, ...]
    timeline: int | None = None


@overload
def tenant_transaction(
    source: Database | Connection,
    tenant: Tenant | int,
    *,
    read_only: Literal[True],
    isolation: Isolation | None = None,
) -> AbstractAsyncContextManager[ReadConnection]: ...


@overload
def tenant_transaction(
    source: Database | Connection,
    tenant: Tenant | int,
    *,
    read_only: Literal[False] = False,
    isolation: Isolation | None = None,
) -> AbstractAsyncContextManager[WriteConnection]: ...


def tenant_transaction(
    source: Database | Connection,
    tenant: Tenant | int,
    *,
    read_only: bool = False,
    isolation: Isolation | None = None,
) -> AbstractAsyncContextManager[object]:
    """A transaction within one tenant's data, on the pool or on a direct connection.

    COMMIT at the end of the block, ROLLBACK if it raises or is cancelled (which also cancels the
    statement that runs). Raises ServiceError as `Database.connection`; psycopg.Error otherwise.
    """
    settings = _settings(source, tenant)
    sql = begin_sql(read_only=read_only, isolation=isolation, settings=settings)
    return _connection(_begun(source, sql))


@asynccontextmanager
async def tenant_snapshot(
    source: Database | Connection, tenant: Tenant | int, *, fresh: Freshness | None = None
) -> AsyncIterator[Snapshot]:
    """One view of a tenant's data (REPEATABLE READ READ ONLY) that is proven fresh enough.

    The guard is the first statement of the snapshot itself and raises inside it, so that what is
    read can never be older than what was checked. Raises BehindError, PositionLostError; and as
    `tenant_transaction`.
    """
    sql = begin_sql(
        read_only=True, isolation=Isolation.REPEATABLE_READ, settings=_settings(source, tenant)
    )
    guard = _guard_sql(fresh or Freshness())
    try:
        # BEGIN and SET LOCAL take no snapshot: the first query, the guard, does.
        async with _begun(source, f"{sql}; {guard}") as begun:
            yield _snapshot(begun)
    except psycopg.DatabaseError as error:
        refused = _REFUSALS.get(error.sqlstate or "")
        if refused is None:
            raise
        meaning = sqlstate.lookup(error.sqlstate or "")
        raise refused(
            meaning.code, meaning.reason, meaning.message, retry_after=meaning.retry_after_seconds
        ) from error


async def use_tenant(connection: WriteConnection | ReadConnection, tenant: Tenant | int) -> None:
    """Go on with another tenant in the open transaction: the flush goes through several.

    Raises RuntimeError outside a transaction, where the setting would have no effect.
    """
    if connection.info.transaction_status != TransactionStatus.INTRANS:
        raise RuntimeError("a tenant is used within a transaction")
    sql = f"SET LOCAL atlas.tenant_id = '{_tenant_id(tenant)}'"
    await connection.execute(sql.encode(), prepare=False)


_REFUSALS: dict[str, type[ServiceError]] = {
    sqlstate.BEHIND: BehindError,
    sqlstate.POSITION_LOST: PositionLostError,
}


def _begun(source: Database | Connection, sql: str) -> AbstractAsyncContextManager[Begun]:
    return source.begun(sql) if isinstance(source, Database) else begun(source, sql)


@asynccontextmanager
async def _connection(begun: AbstractAsyncContextManager[Begun]) -> AsyncIterator[Connection]:
    async with begun as (connection, _):
        yield connection


def _settings(source: Database | Connection, tenant: Tenant | int) -> dict[str, str]:
    bounds = source.transaction_settings() if isinstance(source, Database) else {}
    return {**bounds, "atlas.tenant_id": str(_tenant_id(tenant))}


def _tenant_id(tenant: Tenant | int) -> int:
    number = tenant.id if isinstance(tenant, Tenant) else tenant
    if not isinstance(number, int) or not 0 < number <= TENANT_ID_MAX:
        raise ValueError(f"{number!r} is no tenant's id")
    return number


def _guard_sql(fresh: Freshness) -> str:
    """The guard as text: it goes with BEGIN in one trip, and a simple query takes no parameters.

    Only numbers and a formatted time enter it, never a caller's text.
    """
    not_before = "NULL" if fresh.not_before is None else f"'{fresh.not_before.isoformat()}'"
    lanes = _array(position.lane for position in fresh.positions)
    epochs = _array(position.epoch for position in fresh.positions)
    sequences = _array(position.sequence for position in fresh.positions)
    return (
        f"SELECT written_timeline(), v.* FROM fresh_view({not_before}::timestamptz,"  # noqa: S608
        f" {lanes}::smallint[], {epochs}::bigint[], {sequences}::bigint[]) AS v"
    )


def _array(numbers: Iterable[int]) -> str:
    return "'{" + ",".join(str(int(number)) for number in numbers) + "}'"


def _snapshot(begun: Begun) -> Snapshot:
    assert begun.row is not None
    timeline, beat_id, beaten_at, begun_at, *held = begun.row
    return Snapshot(
        ReadConnection(begun.connection),
        NO_BEAT if beat_id is None or beaten_at is None else Beat(beat_id, beaten_at),
        begun_at,
        tuple(map(Position, *held)),
        timeline,
    )
