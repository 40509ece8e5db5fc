"""Who a tenant's key stands for, from the tenants table, remembered for a while."""

import psycopg

from atlas_common import errors
from atlas_common.cache import SingleFlight, TtlCache
from atlas_common.db.database import Database
from atlas_common.db.queries import load_queries
from atlas_common.errors import ServiceError
from atlas_common.quotas import Quotas
from atlas_common.tenant import Tenant, check_tenant_key

_QUERIES = load_queries("atlas_common.db")
_TTL_SECONDS = 30.0
# An unknown key is remembered as well, briefly: a caller that retries must not reach the database
# each time, and a tenant that was just made must not be refused for long.
_UNKNOWN_TTL_SECONDS = 0.5
_ENTRIES_MAX = 10_000
_ACTIVE = "active"


class PostgresTenants:
    """Resolves tenants' keys: one query per key and time to live, however many calls wait."""

    def __init__(
        self,
        database: Database,
        *,
        ttl_seconds: float = _TTL_SECONDS,
        max_entries: int = _ENTRIES_MAX,
    ) -> None:
        self._database = database
        self._max_entries = max_entries
        self._ttl_seconds = ttl_seconds
        self._cache: TtlCache[str, tuple[Tenant | None, str]] = TtlCache(max_entries, ttl_seconds)
        self._flights: SingleFlight[str, tuple[Tenant | None, str]] = SingleFlight()

    async def resolve(self, key: str) -> Tenant:
        """The tenant of this key.

        Raises ServiceError: INVALID_ARGUMENT / INVALID_FIELD (no key), NOT_FOUND / TENANT_UNKNOWN,
        PERMISSION_DENIED / PERMISSION_DENIED (suspended), or what the database raises, if the
        key was never known: an id never changes, so an old answer is good while it is away.
        """
        check_tenant_key(key)
        found = self._cache.get(key)
        if found is None:
            found = await self._look(key)
        tenant, status = found
        if tenant is None:
            raise errors.not_found("TENANT_UNKNOWN", f"there is no tenant {key!r}", tenant=key)
        if status != _ACTIVE:
            raise errors.permission_denied(
                "PERMISSION_DENIED", f"the tenant {key!r} is {status}", tenant=key
            )
        return tenant

    def forget(self, key: str) -> None:
        """Ask the database the next time: the tenant was just made or changed."""
        self._cache.drop(key)

    def forget_all(self) -> None:
        """Ask the database again about everybody: it has another history by now.

        What is being asked just now is not joined by later calls either, nor remembered.
        """
        self._cache = TtlCache(self._max_entries, self._ttl_seconds)
        self._flights = SingleFlight()

    async def _look(self, key: str) -> tuple[Tenant | None, str]:
        try:
            return await self._flights.run(key, lambda: self._query(key))
        except (ServiceError, psycopg.Error):
            known = self._cache.peek(key)
            if known is None or known[0] is None:
                raise
            return known

    async def _query(self, key: str) -> tuple[Tenant | None, str]:
        cache = self._cache  # Of now: what is found is of this history.
        async with self._database.transaction(read_only=True) as connection:
            cursor = await connection.execute(_QUERIES["tenant_by_key"], {"key": key})
            row = await cursor.fetchone()
        if row is None:
            cache.put(key, (None, ""), ttl_seconds=_UNKNOWN_TTL_SECONDS)
            return None, ""
        found = (Tenant(row[0], row[1], Quotas.of(row[3])), row[2])
        cache.put(key, found)
        return found
