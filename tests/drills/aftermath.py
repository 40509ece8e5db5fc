"""After a restored cluster has taken over: what is told, what clients do, and the proof."""

from datetime import datetime

import psycopg
import pytest

from atlas_client import AtlasClient, AtlasError, JobState, strong
from atlas_devstack.database import Database
from tests.chaos.arena import TENANTS
from tests.chaos.audit import audit
from tests.chaos.ledger import Level, Outcome, SentBatch

from .region import Region
from .writers import lost_batches, send_again

_UNSURE = 200
"""So many that were kept are sent again, too."""
_ASSETS = [f"asset-{number}" for number in range(16)]


def newest_arrival(database: Database) -> datetime:
    """When the last point was ingested."""
    with psycopg.connect(database.admin_dsn) as connection:
        rows = connection.execute("SELECT max(ingested_at) FROM atlas.entity_values_ts").fetchall()
    moment = rows[0][0]
    assert isinstance(moment, datetime)
    return moment


async def losses_are_made_good(region: Region) -> int:
    """Fails unless what is lost is told as lost, and stored once after clients sent it again.

    Answers how many batches were lost.
    """
    acknowledged = region.ledger.with_outcome(Outcome.ACKNOWLEDGED)
    lost = lost_batches(region.stack.database, region.ledger)
    gone = set(lost)
    kept = [batch for batch in acknowledged if batch not in gone]
    for tenant in TENANTS:
        await _tokens_tell(region, tenant, kept, lost)
    # Clients do not know which are lost, nor what became of those that were never answered.
    unsure = kept[-_UNSURE:]
    unknown = region.ledger.with_outcome(Outcome.UNKNOWN)
    target = region.stack.services["ingest"].target
    await send_again(target, region.ledger, [*unsure, *lost, *unknown])
    assert all(batch.repeated_answers for batch in unsure), "what was kept was stored twice"
    return len(lost)


async def works_again(region: Region) -> int:
    """Fails unless all is stored once, and projection, cache and warehouse say the same.

    Answers how many points there are.
    """
    async with region.writing("after"):
        pass
    findings = await audit(region.stack.database, region.ledger, Level.STAGED)
    assert not findings.problems(), f"{findings.problems()}; {region.ledger.summary()}"
    assert not region.ledger.surprises, region.ledger.surprises[:5]
    for tenant in TENANTS:
        async with AtlasClient.connect(region.client_endpoints, tenant=tenant) as client:
            begun = await client.projection.verify()
            *_, job = [each async for each in client.projection.follow(begun.job_id)]
            assert (job.state, job.differences_found) == (JobState.DONE, 0), job
    await region.operate("prove", "--wait", "60")
    return findings.stored


async def _tokens_tell(
    region: Region, tenant: str, kept: list[SentBatch], lost: list[SentBatch]
) -> None:
    async with AtlasClient.connect(region.client_endpoints, tenant=tenant) as client:
        for batches, is_lost in ((kept, False), (lost, True)):
            token = next(batch.token for batch in reversed(batches) if batch.tenant == tenant)
            reading = client.get_entities(_ASSETS, consistency=strong(token=token))
            if is_lost:
                with pytest.raises(AtlasError) as raised:
                    await reading
                assert raised.value.reason == "POSITION_LOST"
            else:
                await reading
