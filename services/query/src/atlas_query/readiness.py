"""When the query service can do its work: one server to read from is enough."""

import asyncio
from collections.abc import Sequence

from atlas_common import errors
from atlas_common.db import Database, rights
from atlas_common.errors import FatalError
from atlas_common.rpc import Check


def any_reachable(databases: Sequence[Database], now: Sequence[Database]) -> Check:
    """Passes when any of the databases answers, and none of those asked grants too many rights.

    `databases` are those of the beginning: with too many rights there the service does not start.
    Of `now`, those that can be trusted now, one must answer: their rights were checked before they
    were taken in, and a mistake in a list of replicas must not end all processes that read it.
    """
    first = {database: _checked(database) for database in databases}

    async def check() -> None:
        guards = [first.get(database, database.check) for database in now]
        if not guards:
            raise errors.unavailable("DEPENDENCY_UNAVAILABLE", "no server can be read")
        waiting = {asyncio.ensure_future(guard()) for guard in guards}
        failures: list[BaseException] = []
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                failures += [error for task in done if (error := task.exception()) is not None]
                _raise_fatal(failures)
                if len(failures) < len(guards) - len(waiting):
                    return
            raise failures[0]
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    return check


def _checked(database: Database) -> Check:
    guard = rights.guard(database)

    async def check() -> None:
        await guard()
        await database.check()

    return check


def _raise_fatal(failures: Sequence[BaseException]) -> None:
    for failure in failures:
        if isinstance(failure, FatalError):
            raise failure
