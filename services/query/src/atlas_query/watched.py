"""A database that is not asked while its breaker is open, whoever asks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from atlas_common import errors
from atlas_common.breaker import Breaker, BreakerState
from atlas_common.config import DatabaseConfig
from atlas_common.db import Database
from atlas_common.db.transaction import Begun


class WatchedDatabase(Database):
    """Fails at once while the endpoint's breaker is open.

    The catalog and the tenants' registry are read from the first database that answers: waiting for
    a dead one's pool, two seconds each time, would make every read wait that needs no other part
    of it. What opens and closes the breaker are the endpoint's reads and polls.
    """

    def __init__(self, config: DatabaseConfig, *, name: str) -> None:
        super().__init__(config, name=name)
        self.breaker: Breaker | None = None

    @asynccontextmanager
    async def begun(self, sql: str) -> AsyncIterator[Begun]:
        """As Database.begun."""
        if self.breaker is not None and self.breaker.state is BreakerState.OPEN:
            raise broken(self.name, self.breaker)
        async with super().begun(sql) as begun:
            yield begun


def broken(name: str, breaker: Breaker) -> errors.ServiceError:
    """The error of a server that is left alone."""
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE",
        "the database failed several times in a row and is left alone for a moment",
        retry_after=max(0.05, breaker.retry_after),
        database=name,
    )
