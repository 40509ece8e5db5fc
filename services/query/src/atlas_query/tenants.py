"""Who a tenant is, from the first server that can say."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import grpc
import psycopg

from atlas_common import errors
from atlas_common.db import Database, PostgresTenants
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant

_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})


class FirstAnswer:
    """A TenantResolver over several: the primary's, and while that is away the replicas'.

    `databases` is looked at anew for each question: it may change.
    """

    def __init__(self, databases: Sequence[Database]) -> None:
        self._databases = databases
        self._resolvers: WeakKeyDictionary[Database, PostgresTenants] = WeakKeyDictionary()

    def forget_all(self) -> None:
        """Trust nothing remembered: after a failover a number may be given to another tenant."""
        for resolver in self._resolvers.values():
            resolver.forget_all()

    async def resolve(self, key: str) -> Tenant:
        """As TenantResolver. Another answer than "away" stands: the first resolver knows best."""
        failure: ServiceError | psycopg.OperationalError = errors.unavailable(
            "DEPENDENCY_UNAVAILABLE", "no database can be read now", retry_after=0.5
        )
        for database in self._databases:
            try:
                return await self._resolver(database).resolve(key)
            except psycopg.OperationalError as error:
                failure = error
            except ServiceError as error:
                if error.code not in _AWAY:
                    raise
                failure = error
        raise failure

    def _resolver(self, database: Database) -> PostgresTenants:
        resolver = self._resolvers.get(database)
        if resolver is None:
            resolver = self._resolvers[database] = PostgresTenants(database)
        return resolver
