"""How far topics are stored, as the flushes wrote it."""

from atlas_common.db import Database
from atlas_ingest.store import Q


class SourceOffsets:
    """The offsets in the primary, which alone decide where reading goes on."""

    def __init__(self, primary: Database) -> None:
        self._primary = primary

    async def next_offset(self, topic: str, partition: int) -> int | None:
        """The offset after the last stored message; None if none was ever stored.

        Raises ServiceError, psycopg.Error.
        """
        values = {"topic": topic, "partition": partition}
        async with self._primary.transaction(read_only=True) as connection:
            row = await (await connection.execute(Q["source_offset"], values)).fetchone()
        return None if row is None else int(row[0])
