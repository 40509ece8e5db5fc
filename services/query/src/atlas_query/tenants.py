"""Who a tenant is, from the first server that can say."""

from collections.abc import Sequence

import grpc
import psycopg

from atlas_common.errors import ServiceError
from atlas_common.rpc import TenantResolver
from atlas_common.tenant import Tenant

_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})


class FirstAnswer:
    """A TenantResolver over several: the primary's, and while that is away the replicas'."""

    def __init__(self, resolvers: Sequence[TenantResolver]) -> None:
        self._resolvers = tuple(resolvers)

    async def resolve(self, key: str) -> Tenant:
        """As TenantResolver. Another answer than "away" stands: the first resolver knows best."""
        for resolver in self._resolvers[:-1]:
            try:
                return await resolver.resolve(key)
            except psycopg.OperationalError:
                continue
            except ServiceError as error:
                if error.code not in _AWAY:
                    raise
        return await self._resolvers[-1].resolve(key)
