"""A service waits for the schema that it needs: for the migration job of its release."""

import asyncio
from collections.abc import Mapping

from atlas_common import errors
from atlas_common.background import Work
from atlas_common.db.database import Database
from atlas_common.db.queries import load_queries

REVISION = 12
"""The revision of the database that services of this release need; a test compares with `db/`."""

_QUERIES = load_queries("atlas_common.db")


class Schema:
    """Whether the migration job has brought a database to this release, or beyond."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found = asyncio.Event()

    async def check(self) -> None:
        """A readiness check: asks until the schema is there, then costs nothing.

        Raises ServiceError UNAVAILABLE / DEPENDENCY_UNAVAILABLE while it is older.
        """
        if self._found.is_set():
            return
        async with self._database.transaction(read_only=True) as connection:
            cursor = await connection.execute(_QUERIES["schema_revision"], {})
            row = await cursor.fetchone()
        revision = row[0] if row else None
        if revision is None or revision < REVISION:
            raise _older(revision, self._database.name)
        self._found.set()

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


def _older(revision: int | None, database: str) -> errors.ServiceError:
    found = "an unknown revision" if revision is None else f"revision {revision:04}"
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE",
        f"the schema is at {found}, this release needs {REVISION:04}: run its migration job"
        " (python -m atlas_db)",
        retry_after=1.0,
        database=database,
    )
