"""The parts of the service, put together."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc.aio

from atlas.catalog.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    policy_service_pb2_grpc,
)
from atlas.hotcache.v1 import hotcache_service_pb2
from atlas.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc
from atlas_common.background import Work
from atlas_common.db import AuditLog, Database, Heartbeat, PostgresTenants, rights
from atlas_common.maintenance import PolicyStore, Runner
from atlas_common.metering import QuotaMeters
from atlas_common.rpc import Check, open_channel
from atlas_common.token import TokenSigner
from atlas_ingest.budget import Budget
from atlas_ingest.catalog.acts import ActReader
from atlas_ingest.catalog.resolver import Resolver
from atlas_ingest.catalog.servicer import CatalogServicer
from atlas_ingest.catalog.watch import CatalogWatch
from atlas_ingest.config import Config, MaintenanceConfig
from atlas_ingest.doors.write_arrow import ArrowWriter
from atlas_ingest.doors.write_streams import WriteStreams
from atlas_ingest.invalidation import Invalidator, nobody_to_tell
from atlas_ingest.lanes.adoption import Adoption
from atlas_ingest.lanes.flush import Flusher
from atlas_ingest.lanes.settling import Settling
from atlas_ingest.lanes.worker import Announce
from atlas_ingest.maintenance import (
    Partitions,
    Retention,
    observe_partitions,
    observe_retention,
)
from atlas_ingest.maintenance.policies import jobs
from atlas_ingest.metrics import observe_lanes, observe_pending
from atlas_ingest.optimizer import WriteOptimizer
from atlas_ingest.policies import servicer as policy_servicer
from atlas_ingest.policies.servicer import PolicyServicer
from atlas_ingest.policies.store import Policies
from atlas_ingest.servicer import IngestServicer
from atlas_ingest.sources.intake import Intake
from atlas_ingest.sources.offsets import SourceOffsets
from atlas_ingest.sources.wiring import sources
from atlas_ingest.staging import StagingMonitor
from atlas_ingest.store import Store

SERVICES = (
    ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"],
    catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"],
    policy_servicer.SERVICE,
)
HOTCACHE = hotcache_service_pb2.DESCRIPTOR.services_by_name["HotCacheService"]


@dataclass(frozen=True)
class Ingest:
    """The service but for its server."""

    ingest: IngestServicer
    catalog: CatalogServicer
    policies: PolicyServicer
    tenants: PostgresTenants
    meters: QuotaMeters
    audit: AuditLog
    intake: Intake
    offsets: SourceOffsets
    flusher: Flusher
    adoption: Adoption
    streams: WriteStreams
    readiness: Mapping[str, Check]
    background: Mapping[str, Work]

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve all of them there."""
        ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(self.ingest, server)
        catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(self.catalog, server)
        policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(self.policies, server)


@asynccontextmanager
async def wire(config: Config) -> AsyncIterator[Ingest]:
    """All parts, until the block ends. Nothing runs yet: `background` is the caller's to start."""
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(Database.open(config.primary, name="primary"))
        announce = await _announce(stack, config)
        store, meters = Store(primary), QuotaMeters(config.quota)
        resolver = Resolver(primary, store, meters=meters)
        budget = Budget(
            points_max=config.flush.pending_points_max, bytes_max=config.flush.pending_bytes_max
        )
        observe_pending(budget)
        flusher = Flusher(
            config.flush,
            config.direct,
            Settling(primary),
            announce=announce,
            on_failover=resolver.forget_all,
        )
        observe_lanes(lambda: flusher.workers, config.flush.lanes_max)
        optimizer = WriteOptimizer(
            resolver=resolver,
            store=store,
            flusher=flusher,
            budget=budget,
            meters=meters,
            event_time=config.event_time,
        )
        monitor = StagingMonitor(primary, flusher, budget, config.flush)
        tenants = PostgresTenants(primary)
        intake, offsets = Intake(optimizer, tenants), SourceOffsets(primary)
        signer = TokenSigner.from_config(config.token)
        streams = WriteStreams(optimizer, store, signer, monitor, config.stream)
        arrow = ArrowWriter(optimizer, signer, monitor, config.stream)
        partitions = Partitions(primary, config.maintenance)
        observe_partitions(partitions)
        due = jobs(config.maintenance, partitions, _retention(config.maintenance))
        runner = Runner(PolicyStore(primary), due, config.policies, config.instance)
        adoption = Adoption(primary, config.direct, config.maintenance, flusher.take_over)
        yield Ingest(
            ingest=IngestServicer(optimizer, signer, monitor, store, streams=streams, arrow=arrow),
            catalog=CatalogServicer(
                store, resolver, tenants, signer, meters=meters, acts=ActReader(primary)
            ),
            policies=PolicyServicer(Policies(primary)),
            tenants=tenants,
            meters=meters,
            audit=AuditLog(primary),
            intake=intake,
            offsets=offsets,
            flusher=flusher,
            adoption=adoption,
            streams=streams,
            readiness={
                "primary": primary.check,
                "rights": rights.guard(primary),
                "partitions": partitions.check,
                "lane": flusher.check,
            },
            background={
                "partitions": partitions.run,
                **runner.background,
                "flush": flusher.run,
                "adoption": adoption.run,
                "heartbeat": Heartbeat(primary).run,
                "catalog": CatalogWatch(config.direct, resolver).run,
                **sources(config, intake, offsets),
            },
        )


def _retention(config: MaintenanceConfig) -> Retention | None:
    """Where this process is trusted with the role; elsewhere a job of its own does it."""
    if config.retention is None:
        return None
    retention = Retention(config.retention, config)
    observe_retention(retention)
    return retention


async def _announce(stack: AsyncExitStack, config: Config) -> Announce:
    if config.hotcache is None:
        return nobody_to_tell
    channel = await stack.enter_async_context(open_channel(config.hotcache, services=[HOTCACHE]))
    timeout_seconds = config.flush.invalidate_timeout_ms / 1000
    return Invalidator(channel, timeout_seconds=timeout_seconds).announce
