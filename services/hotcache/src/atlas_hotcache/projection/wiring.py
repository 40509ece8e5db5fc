"""How the parts of the projection's administration are put together."""

from dataclasses import dataclass

from atlas_common.catalog import Catalog
from atlas_common.db import Database
from atlas_hotcache import convert as hot_convert
from atlas_hotcache.config import IndexingConfig, ProjectionConfig
from atlas_hotcache.indexing.store import IndexStore
from atlas_hotcache.ports import Cache, Primary
from atlas_hotcache.projection import convert
from atlas_hotcache.projection.cache_audit import CacheAudit
from atlas_hotcache.projection.pace import Pace
from atlas_hotcache.projection.runner import Runner
from atlas_hotcache.projection.servicer import ProjectionServicer
from atlas_hotcache.projection.store import JobStore
from atlas_hotcache.projection.worker import Worker
from atlas_hotcache.wiring import Parts


@dataclass(frozen=True, slots=True)
class ProjectionParts:
    """What is served, what runs beside it, and what is worth looking into."""

    servicer: ProjectionServicer
    runner: Runner
    store: JobStore


def wire_projection(
    config: ProjectionConfig,
    database: Database,
    parts: Parts,
    *,
    primary: Primary,
    cache: Cache,
    catalog: Catalog,
    indexing: IndexingConfig,
) -> ProjectionParts:
    """The parts over these stores."""
    watcher = parts.watcher
    store = JobStore(database, config.statement_seconds_max)
    audit = CacheAudit(
        primary,
        cache,
        watcher,
        catalog,
        encode=hot_convert.body,
        decode=convert.cached_values,
    )

    def new_worker() -> Worker:
        return Worker(
            store,
            cache=cache,
            watcher=watcher,
            invalidator=parts.invalidator,
            audit=audit,
            pace=Pace(config.batch_entities_max, config.batch_seconds_max),
            expiry_seconds=config.expiry_seconds,
        )

    runner = Runner(
        store, new_worker, poll_seconds=config.poll_seconds, lease_seconds=config.lease_seconds
    )
    indexes = IndexStore(database, indexing.per_tenant_max, indexing.indexes_max)
    servicer = ProjectionServicer(store, catalog, runner.wake, config.jobs_per_tenant_max, indexes)
    return ProjectionParts(servicer, runner, store)
