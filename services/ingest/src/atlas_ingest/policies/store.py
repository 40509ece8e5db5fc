"""Policies in the primary, as operators list and change them; each call is one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from atlas_common import errors
from atlas_common.db import Database, WriteConnection, load_queries
from atlas_common.db.connection import ReadConnection

Q = load_queries("atlas_ingest.policies")
POLICIES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class RunRow:
    """The last run of a kind."""

    status: str
    started_at: datetime
    ended_at: datetime | None
    summary: str
    runner: str
    run_count: int
    failure_count: int


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A policy, with what came of it."""

    policy_id: int
    job: str
    is_default: bool
    tenants: Sequence[str]
    interval: timedelta | None
    is_setting: bool
    is_scheduled: bool
    next_start: datetime
    is_requested: bool
    last_run: RunRow | None
    last_dry_run: RunRow | None


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be set; None: as it is."""

    sets_interval: bool = False
    seconds: float | None = None
    """With `sets_interval`: None is back to the service's settings."""
    is_scheduled: bool | None = None
    tenants: Sequence[str] | None = None
    next_start: datetime | None = None


class Policies:
    """Raises ServiceError NOT_FOUND / POLICY_UNKNOWN, and as `Database.transaction`."""

    def __init__(self, primary: Database) -> None:
        self._primary = primary

    async def all(self) -> list[PolicyRow]:
        """By job, the default one first."""
        async with self._primary.transaction(read_only=True) as connection:
            return await _rows(connection, None)

    async def add(self, job: str, draft: Draft) -> PolicyRow:
        """Add one, or find the same."""
        async with self._primary.transaction() as connection:
            await connection.execute(Q["lock_policies"])
            takes_tenants = await _fetch(connection, "job_takes_tenants", {"job": job})
            if takes_tenants is None:
                raise errors.not_found(
                    "POLICY_UNKNOWN",
                    f"there is no job {job!r}: ListPolicies shows those that services have",
                    field="job",
                )
            values = {
                "job": job,
                "tenant_ids": await _ids(connection, draft.tenants or (), takes_tenants[0], job),
                "seconds": draft.seconds,
                "next_start": draft.next_start,
            }
            row = await _fetch(connection, "same_policy", values)
            if row is None:
                count = await _fetch(connection, "count_policies", {})
                assert count is not None
                if count[0] >= POLICIES_MAX:
                    raise errors.resource_exhausted(
                        "OVERLOADED", f"there are {POLICIES_MAX} policies: remove one first"
                    )
                row = await _fetch(connection, "add_policy", values)
            assert row is not None
            return await _one(connection, row[0])

    async def alter(self, policy_id: int, draft: Draft) -> PolicyRow:
        """Change one."""
        async with self._primary.transaction() as connection:
            policy = await _one(connection, policy_id)
            tenant_ids: list[int] | None = None
            if draft.tenants is not None:
                takes_tenants = await _fetch(connection, "job_takes_tenants", {"job": policy.job})
                takes = takes_tenants is not None and takes_tenants[0]
                tenant_ids = await _ids(connection, draft.tenants, takes, policy.job)
            values = {
                "policy_id": policy_id,
                "sets_interval": draft.sets_interval,
                "seconds": draft.seconds,
                "is_scheduled": draft.is_scheduled,
                "tenant_ids": tenant_ids,
                "next_start": draft.next_start,
            }
            await connection.execute(Q["alter_policy"], values)
            return await _one(connection, policy_id)

    async def remove(self, policy_id: int) -> None:
        """Take one away; one that is not there is no error.

        Raises ServiceError FAILED_PRECONDITION / JOB_CONFLICT for a default one.
        """
        async with self._primary.transaction() as connection:
            found = await _rows(connection, policy_id)
            if found and found[0].is_default:
                raise errors.failed_precondition(
                    "JOB_CONFLICT",
                    f"policy {policy_id} is the default of its job: switch it off instead",
                    field="policy_id",
                )
            await connection.execute(Q["remove_policy"], {"policy_id": policy_id})

    async def request(self, policy_id: int, *, dry_run: bool) -> datetime:
        """Have it run soon; the time from which on its run begins."""
        values = {"policy_id": policy_id, "kind": "dry_run" if dry_run else "run"}
        async with self._primary.transaction() as connection:
            row = await _fetch(connection, "request_run", values)
        if row is None:
            raise _unknown(policy_id)
        moment: datetime = row[0]
        return moment


async def _one(connection: ReadConnection | WriteConnection, policy_id: int) -> PolicyRow:
    found = await _rows(connection, policy_id)
    if not found:
        raise _unknown(policy_id)
    return found[0]


async def _rows(
    connection: ReadConnection | WriteConnection, policy_id: int | None
) -> list[PolicyRow]:
    cursor = await connection.execute(Q["list_policies"], {"policy_id": policy_id})
    rows = await cursor.fetchall()
    ids = sorted({tenant_id for row in rows for tenant_id in row[3]})
    cursor = await connection.execute(Q["keys_of_tenants"], {"tenant_ids": ids})
    keys: dict[int, str] = dict(await cursor.fetchall())
    return [_policy(row, keys) for row in rows]


def _policy(row: Sequence[Any], keys: Mapping[int, str]) -> PolicyRow:
    policy_id, job, is_default, tenant_ids, interval, is_setting, *rest = row
    is_scheduled, next_start, is_requested, *runs = rest
    return PolicyRow(
        policy_id,
        job,
        is_default,
        tuple(keys[tenant_id] for tenant_id in tenant_ids if tenant_id in keys),
        interval,
        is_setting,
        is_scheduled,
        next_start,
        is_requested,
        _run(runs[:7]),
        _run(runs[7:]),
    )


def _run(columns: Sequence[Any]) -> RunRow | None:
    return None if columns[0] is None else RunRow(*columns)


async def _ids(
    connection: WriteConnection, keys: Sequence[str], takes_tenants: bool, job: str
) -> list[int]:
    """Of the tenants. Raises ServiceError naming the field."""
    if keys and not takes_tenants:
        raise errors.invalid_argument(
            "INVALID_FIELD", f"{job} is done for all tenants at once: name none", field="tenants"
        )
    cursor = await connection.execute(Q["tenants_by_key"], {"keys": list(keys)})
    known = {key: tenant_id for tenant_id, key in await cursor.fetchall()}
    for key in keys:
        if key not in known:
            raise errors.not_found(
                "TENANT_UNKNOWN", f"there is no tenant {key!r}", field="tenants", tenant=key
            )
    return sorted({known[key] for key in keys})


async def _fetch(
    connection: WriteConnection, query: str, values: dict[str, Any]
) -> tuple[Any, ...] | None:
    return await (await connection.execute(Q[query], values)).fetchone()


def _unknown(policy_id: int) -> errors.ServiceError:
    return errors.not_found(
        "POLICY_UNKNOWN",
        f"there is no policy {policy_id}: ListPolicies shows all",
        field="policy_id",
    )
