"""The store of slots: what the server says of one."""

from atlas_cdc_reconciler.source.slot_state import SlotState
from atlas_common.db import Database, load_queries

Q = load_queries("atlas_cdc_reconciler")


async def read_slot(database: Database, name: str) -> SlotState | None:
    """What the server knows of a slot; None: there is none. Raises ServiceError, psycopg.Error."""
    async with database.transaction(read_only=True) as connection:
        cursor = await connection.execute(Q["slot"], {"slot": name})
        row = await cursor.fetchone()
    return None if row is None else SlotState(*row)
