"""How the parts of the projection's administration are put together."""

from dataclasses import dataclass

from atlas_common.catalog import Catalog
from atlas_common.db import Database
from atlas_common.tenant import Tenant
from atlas_hotcache import convert as hot_convert
from atlas_hotcache.config import IndexingConfig, ProjectionConfig, PromotionConfig
from atlas_hotcache.indexing.store import IndexStore
from atlas_hotcache.ports import Primary
from atlas_hotcache.projection import convert
from atlas_hotcache.projection.cache_audit import CacheAudit
from atlas_hotcache.projection.jobs import Kind
from atlas_hotcache.projection.pace import Pace
from atlas_hotcache.projection.runner import Runner
from atlas_hotcache.projection.servicer import ProjectionServicer
from atlas_hotcache.projection.store import JobDraft, JobStore
from atlas_hotcache.projection.worker import Worker
from atlas_hotcache.promotion.decisions import Decision
from atlas_hotcache.promotion.desk import PromotionDesk
from atlas_hotcache.promotion.evaluator import Evaluator
from atlas_hotcache.promotion.store import PromotionStore
from atlas_hotcache.wiring import Parts


@dataclass(frozen=True, slots=True)
class ProjectionParts:
    """What is served, what runs beside it, and what is worth looking into."""

    servicer: ProjectionServicer
    runner: Runner
    store: JobStore
    evaluator: Evaluator


def wire_projection(
    config: ProjectionConfig,
    promotion: PromotionConfig,
    database: Database,
    parts: Parts,
    *,
    primary: Primary,
    catalog: Catalog,
    indexing: IndexingConfig,
) -> ProjectionParts:
    """The parts over these stores."""
    watcher = parts.watcher
    store = JobStore(database, config.statement_seconds_max)
    audit = CacheAudit(
        primary,
        parts.shards,
        watcher,
        catalog,
        encode=hot_convert.body,
        decode=convert.cached_values,
    )

    def new_worker() -> Worker:
        return Worker(
            store,
            shards=parts.shards,
            watcher=watcher,
            invalidator=parts.invalidator,
            audit=audit,
            pace=Pace(config.batch_entities_max, config.batch_seconds_max),
            expiry_seconds=config.expiry_seconds,
        )

    runner = Runner(
        store, new_worker, poll_seconds=config.poll_seconds, lease_seconds=config.lease_seconds
    )

    async def start(tenant: Tenant, decision: Decision) -> int:
        kind = Kind(decision.action.value)
        draft = JobDraft(kind, attribute_id=decision.attribute_id, decision=decision)
        job = await store.start(tenant, draft, config.jobs_per_tenant_max)
        catalog.drop_attributes(tenant)
        runner.wake()
        return job.job_id

    decided = PromotionStore(database)
    evaluator = Evaluator(decided, start, promotion)
    servicer = ProjectionServicer(
        store,
        catalog,
        runner.wake,
        config.jobs_per_tenant_max,
        PromotionDesk(decided, promotion),
        indexes=IndexStore(database, indexing.per_tenant_max, indexing.indexes_max),
    )
    return ProjectionParts(servicer, runner, store, evaluator)
