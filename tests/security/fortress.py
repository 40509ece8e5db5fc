"""The platform as it is outside development: TLS, certificates, tokens; every service is real."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from atlas.catalog.v1 import catalog_service_pb2, policy_service_pb2
from atlas.hotcache.v1 import hotcache_service_pb2, projection_service_pb2
from atlas.ingest.v1 import ingest_service_pb2
from atlas.query.v1 import query_service_pb2
from atlas.reconciler.v1 import (
    dead_letter_service_pb2,
    pipeline_service_pb2,
    reconciler_service_pb2,
)
from atlas.type.v1 import access_pb2
from atlas_client import AtlasClient, Endpoints, Security
from atlas_common.errors import ServiceError, from_rpc_error
from atlas_devstack.authority import CertificateFiles
from atlas_devstack.collector import Collector, collecting
from atlas_devstack.platform import SERVICES as KINDS
from atlas_devstack.ports import LOOPBACK
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.verified import Verified

SERVICES: dict[str, list[ServiceDescriptor]] = {
    "ingest": [
        ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"],
        catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"],
        policy_service_pb2.DESCRIPTOR.services_by_name["PolicyService"],
    ],
    "hotcache": [
        hotcache_service_pb2.DESCRIPTOR.services_by_name["HotCacheService"],
        projection_service_pb2.DESCRIPTOR.services_by_name["ProjectionService"],
    ],
    "query": [query_service_pb2.DESCRIPTOR.services_by_name["QueryService"]],
    "cdc-reconciler": [
        reconciler_service_pb2.DESCRIPTOR.services_by_name["ReconcilerService"],
        pipeline_service_pb2.DESCRIPTOR.services_by_name["PipelineService"],
        dead_letter_service_pb2.DESCRIPTOR.services_by_name["DeadLetterService"],
    ],
}
METHODS = [
    (name, method)
    for name, services in SERVICES.items()
    for service in services
    for method in service.methods
]
ALL_SCOPES = (
    "telemetry.read",
    "telemetry.write",
    "catalog.admin",
    "projection.admin",
    "reconcile.admin",
    "platform.admin",
    "platform.status",
)
"""All that a token can have, but for tenant.any."""


def access(method: MethodDescriptor) -> access_pb2.Access:
    return method.GetOptions().Extensions[access_pb2.access]


def path(method: MethodDescriptor) -> str:
    service = method.containing_service
    assert service is not None
    return f"/{service.full_name}/{method.name}"


@dataclass(frozen=True)
class Fortress:
    stack: Stack
    verified: Verified
    collector: Collector
    """What its services say in spans and metrics."""

    def target(self, service: str, *, for_peers: bool = False) -> str:
        if for_peers:
            return f"{LOOPBACK}:{self.verified.peer_ports[service]}"
        return self.stack.services[service].target

    def client(
        self, token: str | Callable[[], str], tenant: str | None = None
    ) -> AbstractAsyncContextManager[AtlasClient]:
        known = Endpoints.from_json(self.stack.endpoints.to_json())
        security = Security(ca_file=self.verified.authority.ca_file, token=token)
        endpoints = replace(known, security=security)
        return AtlasClient.connect(endpoints, tenant=tenant, timeout=60)

    def token(self, tenant: str | None = None, scopes: Sequence[str] = ALL_SCOPES) -> str:
        return self.verified.issuer.token(tenant=tenant, scopes=scopes)

    @contextmanager
    def channel(
        self,
        service: str,
        client: CertificateFiles | None = None,
        *,
        for_peers: bool = False,
        ca_file: Path | None = None,
    ) -> Iterator[grpc.Channel]:
        """A channel that can only be made with what is given."""
        credentials = grpc.ssl_channel_credentials(
            (ca_file or self.verified.authority.ca_file).read_bytes(),
            None if client is None else client.key.read_bytes(),
            None if client is None else client.certificate.read_bytes(),
        )
        target = self.target(service, for_peers=for_peers)
        with grpc.secure_channel(target, credentials) as channel:
            yield channel


def refusal(
    channel: grpc.Channel, method: MethodDescriptor, token: str | None, tenant: str | None = None
) -> ServiceError:
    """Call the method with an empty message; the error, which there has to be."""
    metadata = []
    if token is not None:
        metadata.append(("authorization", f"Bearer {token}"))
    if tenant is not None:
        metadata.append(("x-atlas-tenant", tenant))
    try:
        answer = _call(channel, method, metadata)
    except grpc.RpcError as error:
        failed: Any = error  # As an error of grpc.aio, but for the type.
        return from_rpc_error(failed)
    raise AssertionError(f"{method.full_name} let it in: {answer!r}")


def _call(channel: Any, method: MethodDescriptor, metadata: Any) -> bytes:
    options = {"metadata": metadata, "timeout": 60}
    if method.client_streaming and method.server_streaming:
        return bytes(next(iter(channel.stream_stream(path(method))(iter([b""]), **options))))
    if method.client_streaming:
        return bytes(channel.stream_unary(path(method))(iter([b""]), **options))
    if method.server_streaming:
        return b"".join(channel.unary_stream(path(method))(b"", **options))
    return bytes(channel.unary_unary(path(method))(b"", **options))


@contextmanager
def fortress(directory: Path, servers: ServerOptions) -> Iterator[Fortress]:
    """Start it, with the tenants acme and globex nowhere yet."""
    verified = Verified.made(directory, tuple(KINDS))
    with collecting() as collector:
        telling = {
            "ATLAS_TELEMETRY__OTLP_ENDPOINT": collector.endpoint,
            "ATLAS_TELEMETRY__METRICS_INTERVAL_SECONDS": "1",
        }
        environment = {name: {**given, **telling} for name, given in verified.environment.items()}
        options = StackOptions(
            servers=servers, environment=environment, ready_seconds_max=180, spans=True
        )
        stack = Stack.start(directory / "state", options)
        try:
            yield Fortress(stack, verified, collector)
        finally:
            stack.remove()
