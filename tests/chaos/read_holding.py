"""Readers that do not read on: they hold a snapshot, and a connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import consistency_pb2
from atlas_client.call import open_channel
from tests.integration.query_reading import as_tenant

from .read_arena import ReadArena, Reads

HISTORY_POINTS = 100_000  # 25 MB: more than any window of flow control.


def long_history(arena: ReadArena, tenant: str, key: str, base_us: int) -> None:
    """Points of before all others, of the cold attribute."""
    with arena.admin() as admin:
        admin.execute(
            "INSERT INTO entity_values_ts"
            " (tenant_id, entity_id, attribute_id, event_time, ingested_at, quality, value_text)"
            " SELECT tenant_id, entity_id, attribute_id,"
            "  to_timestamp(%(base)s / 1e6) - n * interval '1 ms', clock_timestamp(), 0,"
            "  repeat('x', 200)"
            " FROM tenants JOIN entities AS e USING (tenant_id) JOIN attributes USING (tenant_id),"
            "  generate_series(1, %(count)s) AS n"
            " WHERE tenants.key = %(tenant)s AND e.key = %(key)s AND name = 'serial'",
            {"base": base_us, "count": HISTORY_POINTS, "tenant": tenant, "key": key},
        )


@asynccontextmanager
async def unread(
    reads: Reads, tenant: str, key: str, consistency: consistency_pb2.Consistency
) -> AsyncIterator[Any]:
    """A history whose beginning is read, and no more of it; the call.

    Its snapshot, and its connection, are held for as long.
    """
    # A channel of its own: what nobody reads must not fill the window of the others.
    async with open_channel(reads.process.target, None) as channel:
        stub: Any = Reads(reads.process, channel).stub
        request = pb.GetHistoryRequest(
            entity_key=key, attributes=["serial"], consistency=consistency
        )
        call = stub.GetHistory(request, metadata=as_tenant(tenant))
        await call.read()
        try:
            yield call
        finally:
            call.cancel()
