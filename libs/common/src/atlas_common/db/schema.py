"""A service waits for the schema that it needs: for the migration job of its release."""

import asyncio
from collections.abc import Iterable, Mapping

import psycopg

from atlas_common import errors
from atlas_common.background import Work
from atlas_common.db.database import Database
from atlas_common.db.queries import load_queries
from atlas_common.errors import ServiceError

REVISION = 12
"""The revision of the database that services of this release need; a test compares with `db/`."""

_QUERIES = load_queries("atlas_common.db")


class Schema:
    """Whether the migration job has brought the database to this release, or beyond.

    `databases` are copies of one, looked at anew each time: the first that has it is enough.
    """

    def __init__(self, databases: Iterable[Database]) -> None:
        self._databases = databases
        self._found = asyncio.Event()

    async def check(self) -> None:
        """Asks until the schema is there, then costs nothing; for readiness, and for each call.

        Raises ServiceError UNAVAILABLE / DEPENDENCY_UNAVAILABLE while it is older, or what the last
        database raised that was asked.
        """
        if self._found.is_set():
            return
        failure: Exception = errors.unavailable(
            "DEPENDENCY_UNAVAILABLE", "no database can be read now", retry_after=0.5
        )
        for database in self._databases:
            try:
                revision = await _revision(database)
            except (ServiceError, psycopg.OperationalError) as error:
                failure = error
                continue
            if revision is not None and revision >= REVISION:
                self._found.set()
                return
            failure = _older(revision, database.name)
        raise failure

    def before(self, works: Mapping[str, Work]) -> dict[str, Work]:
        """The same background work, begun once a check has passed.

        On an older schema it would fail in words that do not name the cause, or half succeed.
        """
        return {name: self._after(work) for name, work in works.items()}

    def _after(self, work: Work) -> Work:
        async def run() -> None:
            await self._found.wait()
            await work()

        return run


async def _revision(database: Database) -> int | None:
    async with database.transaction(read_only=True) as connection:
        cursor = await connection.execute(_QUERIES["schema_revision"], {})
        row = await cursor.fetchone()
    return row[0] if row else None


def _older(revision: int | None, database: str) -> ServiceError:
    found = "an unknown revision" if revision is None else f"revision {revision:04}"
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE",
        f"the schema is at {found}, this release needs {REVISION:04}: run its migration job"
        " (python -m atlas_db)",
        retry_after=1.0,
        database=database,
    )
