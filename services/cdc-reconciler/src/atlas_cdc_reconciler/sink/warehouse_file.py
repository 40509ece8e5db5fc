"""The warehouse's file, opened by its one owner."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from atlas_cdc_reconciler.config import WarehouseConfig
from atlas_cdc_reconciler.sink.schema import SchemaVersionError, migrate
from atlas_common.errors import FatalError

# A predecessor that is just stopping gives the file back within this time.
_OWNED_SECONDS_MAX = 5.0
_RETRY_SECONDS = 0.2


@contextmanager
def opened(config: WarehouseConfig) -> Iterator[duckdb.DuckDBPyConnection]:
    """The file with its schema; made if it is missing. Blocks: run it in the owner's thread.

    Raises FatalError when another process owns the file, or it was made by a newer release.
    """
    config.path.parent.mkdir(parents=True, exist_ok=True)
    connection = _connect(config)
    try:
        try:
            migrate(connection)
        except SchemaVersionError as error:
            raise FatalError(f"ATLAS_WAREHOUSE__PATH: {config.path}: {error}") from error
        yield connection
    finally:
        connection.close()  # Also checkpoints, so that the next start has nothing to replay.


def _connect(config: WarehouseConfig) -> duckdb.DuckDBPyConnection:
    give_up = time.monotonic() + _OWNED_SECONDS_MAX
    while True:
        try:
            return _configured(config)
        except duckdb.IOException as error:
            if "lock" not in str(error) or time.monotonic() > give_up:
                raise FatalError(
                    f"ATLAS_WAREHOUSE__PATH: {config.path} cannot be opened. One process owns a"
                    f" warehouse; if another cdc-reconciler has it, stop that one: {error}"
                ) from error
        time.sleep(_RETRY_SECONDS)


def _configured(config: WarehouseConfig) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        str(config.path),
        config={
            "memory_limit": f"{config.memory_limit_mb}MB",
            "max_temp_directory_size": f"{config.spill_mb_max}MB",
            "threads": config.threads,
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "preserve_insertion_order": "false",  # Costs memory, and no query here relies on it.
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    # No query reads files or the network: whatever is smuggled into one cannot either.
    connection.execute("SET enable_external_access = false")
    return connection
