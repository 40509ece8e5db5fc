"""Hears of changes of the catalog that other processes make.

A change tells the tenant's id in its own transaction (NOTIFY), so it is heard when it can be read,
and not at all if it is rolled back. While nobody listens, changes are missed: so everything is
forgotten each time that listening begins. The caches' time to live is for what fails silently.
"""

import psycopg
from psycopg_pool import AsyncConnectionPool

from atlas_common import telemetry
from atlas_common.config import DatabaseConfig
from atlas_common.db import direct_connection
from atlas_ingest.catalog.resolver import Resolver

_LISTEN = b"LISTEN atlas_catalog"
_ASK_SECONDS = 5.0  # A quiet connection is asked for life this often.
_log = telemetry.logger(__name__)


class CatalogWatch:
    """Listens on a session of its own: behind a pooler nobody would be told."""

    def __init__(self, direct: DatabaseConfig, resolver: Resolver) -> None:
        self._direct = direct
        self._resolver = resolver
        self.is_listening = False

    async def run(self) -> None:
        """Listen until cancelled.

        Raises ServiceError, psycopg.Error when the connection is lost.
        """
        try:
            async with direct_connection(self._direct, name="ingest catalog") as connection:
                await connection.execute(_LISTEN)
                self._resolver.forget_all()
                self.is_listening = True
                while True:
                    async for notice in connection.notifies(timeout=_ASK_SECONDS):
                        self._heard(notice)
                    await AsyncConnectionPool.check_connection(connection)
        finally:
            self.is_listening = False

    def _heard(self, notice: psycopg.Notify) -> None:
        if notice.payload.isascii() and notice.payload.isdigit():
            self._resolver.forget_tenant(int(notice.payload))
            return
        # Of a newer release, perhaps: better to forget too much.
        _log.warning("catalog notice not understood", payload=notice.payload[:64])
        self._resolver.forget_all()
