"""The store of the source's side of the comparison: digests of what the primary holds."""

from atlas_cdc_reconciler.digest import Digest, Engine, window_digests_sql
from atlas_cdc_reconciler.windows import Span
from atlas_common.db import Database, load_queries, tenant_transaction
from atlas_common.tenant import Tenant
from atlas_common.values import us_to_datetime

Q = load_queries("atlas_cdc_reconciler")
_WINDOW_DIGESTS = window_digests_sql(
    Engine.POSTGRES, ("%(tenant_id)s", "%(start)s", "%(stop)s", "%(width_us)s::bigint")
).encode()


class SourceDigests:
    """Reads the primary, within the tenant's own rows."""

    def __init__(self, database: Database, statement_timeout_seconds: float) -> None:
        self._database = database
        self._timeout_ms = round(statement_timeout_seconds * 1000)

    async def tenants(self) -> list[Tenant]:
        """All tenants. Raises ServiceError or psycopg.Error, as all here."""
        async with self._database.transaction(read_only=True) as connection:
            cursor = await connection.execute(Q["list_tenants"], {})
            return [Tenant(tenant_id, key) for tenant_id, key in await cursor.fetchall()]

    async def occupied(self, tenant: Tenant, span: Span, piece_us: int) -> set[int]:
        """Numbers since 1970 of the span's pieces that have rows. Reads the whole span."""
        parameters = {
            "tenant_id": tenant.id,
            "start": us_to_datetime(span.start_us),
            "stop": us_to_datetime(span.stop_us),
            "piece_us": piece_us,
        }
        async with tenant_transaction(self._database, tenant, read_only=True) as connection:
            await connection.execute(f"SET LOCAL statement_timeout = {self._timeout_ms}".encode())
            cursor = await connection.execute(Q["occupied"], parameters)
            return {row[0] for row in await cursor.fetchall()}

    async def digests(self, tenant: Tenant, span: Span, width_us: int) -> dict[int, Digest]:
        """Digests of the span's windows that have rows, by the window's number since 1970."""
        parameters = {
            "tenant_id": tenant.id,
            "start": us_to_datetime(span.start_us),
            "stop": us_to_datetime(span.stop_us),
            "width_us": width_us,
        }
        async with tenant_transaction(self._database, tenant, read_only=True) as connection:
            await connection.execute(f"SET LOCAL statement_timeout = {self._timeout_ms}".encode())
            cursor = await connection.execute(_WINDOW_DIGESTS, parameters)
            rows = await cursor.fetchall()
        return {number: Digest(count, int(high), int(low)) for number, count, high, low in rows}
