"""The platform as it is outside development: TLS, certificates, tokens; every service is real."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from atlas.catalog.v1 import catalog_service_pb2
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
from atlas_devstack.authority import Authority, CertificateFiles
from atlas_devstack.issuer import AUDIENCE, ISSUER, Issuer
from atlas_devstack.platform import SERVICES as KINDS
from atlas_devstack.ports import LOOPBACK, free_port
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions

SERVICES: dict[str, list[ServiceDescriptor]] = {
    "ingest": [
        ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"],
        catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"],
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
PEERS = {
    "hotcache": {
        "ingest.atlas": ["platform.internal"],
        "query.atlas": ["telemetry.read", "platform.status"],
    },
    "cdc-reconciler": {"query.atlas": ["telemetry.read", "platform.status"]},
}
CALLS = {"ingest": ["hotcache"], "query": ["hotcache", "cdc-reconciler"]}
VARIABLES = {"hotcache": "ATLAS_HOTCACHE", "cdc-reconciler": "ATLAS_RECONCILER"}
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
    authority: Authority
    issuer: Issuer
    key_set: Path
    certificates: dict[str, CertificateFiles]
    peer_ports: dict[str, int]

    def target(self, service: str, *, for_peers: bool = False) -> str:
        if for_peers:
            return f"{LOOPBACK}:{self.peer_ports[service]}"
        return self.stack.services[service].target

    def client(
        self, token: str | Callable[[], str], tenant: str | None = None
    ) -> AbstractAsyncContextManager[AtlasClient]:
        known = Endpoints.from_json(self.stack.endpoints.to_json())
        security = Security(ca_file=self.authority.ca_file, token=token)
        endpoints = replace(known, security=security)
        return AtlasClient.connect(endpoints, tenant=tenant, timeout=60)

    def token(self, tenant: str | None = None, scopes: Sequence[str] = ALL_SCOPES) -> str:
        return self.issuer.token(tenant=tenant, scopes=scopes)

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
            (ca_file or self.authority.ca_file).read_bytes(),
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
    authority, issuer = Authority(directory / "pki"), Issuer()
    key_set = directory / "jwks.json"
    issuer.publish(key_set)
    certificates = {name: authority.issue(LOOPBACK, "localhost", f"{name}.atlas") for name in KINDS}
    taken: set[int] = set()
    peer_ports = {name: free_port(taken) for name in PEERS}
    environment = {
        name: {
            "ATLAS_ENVIRONMENT": "staging",
            "ATLAS_IDENTITY__MODE": "verified",
            "ATLAS_IDENTITY__JWT__JWKS": str(key_set),
            "ATLAS_IDENTITY__JWT__ISSUER": ISSUER,
            "ATLAS_IDENTITY__JWT__AUDIENCE": AUDIENCE,
            "ATLAS_RPC__TLS__CERTIFICATE_FILE": str(certificates[name].certificate),
            "ATLAS_RPC__TLS__KEY_FILE": str(certificates[name].key),
            "ATLAS_RPC__HEALTH_PORT": str(free_port(taken)),
            **_let_in(name, authority, peer_ports),
            **_calling(name, authority, certificates[name], peer_ports),
        }
        for name in KINDS
    }
    options = StackOptions(servers=servers, environment=environment, ready_seconds_max=180)
    stack = Stack.start(directory / "state", options)
    try:
        yield Fortress(stack, authority, issuer, key_set, certificates, peer_ports)
    finally:
        stack.remove()


def _let_in(name: str, authority: Authority, ports: dict[str, int]) -> dict[str, str]:
    """Which other services may call this one, and where."""
    if name not in PEERS:
        return {}
    return {
        "ATLAS_RPC__TLS__CLIENT_CA_FILE": str(authority.ca_file),
        "ATLAS_RPC__PEER_PORT": str(ports[name]),
        "ATLAS_IDENTITY__PEERS": json.dumps(PEERS[name]),
    }


def _calling(
    name: str, authority: Authority, own: CertificateFiles, ports: dict[str, int]
) -> dict[str, str]:
    """Which other services this one calls, and with what."""
    variables: dict[str, str] = {}
    for called in CALLS.get(name, ()):
        prefix = VARIABLES[called]
        variables |= {
            f"{prefix}__TARGET": f"{LOOPBACK}:{ports[called]}",
            f"{prefix}__TLS__CA_FILE": str(authority.ca_file),
            f"{prefix}__TLS__CERTIFICATE_FILE": str(own.certificate),
            f"{prefix}__TLS__KEY_FILE": str(own.key),
        }
    return variables
