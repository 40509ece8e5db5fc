"""What retention dropped at the source: no deletion, and the warehouse keeps it."""

from atlas_common.db import Database, load_queries
from atlas_common.values import datetime_to_us

Q = load_queries("atlas_cdc_reconciler")


async def retention_floor_us(database: Database) -> int:
    """Where the oldest partition begins now, in microseconds of `ingested_at`; 0: there is none.

    A partition that is dropped is gone from every snapshot. So ask behind a look at the rows: what
    was dropped in between lies below the answer. Raises ServiceError or psycopg.Error.
    """
    async with database.transaction(read_only=True) as connection:
        row = await (await connection.execute(Q["retention_floor"], {})).fetchone()
    return 0 if row is None or row[0] is None else datetime_to_us(row[0])
