"""The tenants of a development stack, made through the catalog like any other tenant."""

from collections.abc import Sequence

import grpc

from atlas.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from atlas_devstack.errors import DevstackError

_TIMEOUT_SECONDS = 10.0


def create_tenants(ingest_target: str, keys: Sequence[str]) -> None:
    """Make the tenants that do not exist yet. Raises DevstackError when ingest refuses one."""
    with grpc.insecure_channel(ingest_target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        catalog = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        for key in keys:
            request = catalog_service_pb2.CreateTenantRequest(key=key)
            try:
                catalog.CreateTenant(request, timeout=_TIMEOUT_SECONDS, wait_for_ready=True)
            except grpc.RpcError as error:
                raise DevstackError(f"tenant {key!r} could not be made: {error}") from error
