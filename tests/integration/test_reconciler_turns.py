"""The one connection that writes the warehouse: who takes it gives it back clean."""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path

from atlas_cdc_reconciler.config import WarehouseConfig
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse

from .waiting import eventually


async def test_a_transaction_that_was_given_up_as_it_began_is_in_nobodys_way(
    tmp_path: Path,
) -> None:
    """An order to the pipeline does that to a copy, and is the next to write."""
    config = WarehouseConfig(path=tmp_path / "w.duckdb", memory_limit_mb=256)
    async with DuckDbWarehouse.open(config) as warehouse:
        await warehouse.claim("test")
        free = threading.Event()
        busy = asyncio.ensure_future(warehouse._in_thread(free.wait))

        async def copied() -> None:
            async with warehouse.exclusive():
                raise AssertionError("it was given up before")

        copying = asyncio.create_task(copied())
        await eventually(warehouse._turn.locked)
        copying.cancel()
        free.set()
        with suppress(asyncio.CancelledError):
            await copying
        assert await busy
        await warehouse.write([("DELETE FROM cdc_levelling", {})])
        assert (await warehouse.state()).position is None
