"""The warehouse's file, opened by its one owner."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from atlas_cdc_reconciler.config import WarehouseConfig
from atlas_cdc_reconciler.sink.absent import remember_absent_modules
from atlas_cdc_reconciler.sink.ownership import (
    Claim,
    end,
    hung_owner,
    leave_note,
    take_note_away,
)
from atlas_cdc_reconciler.sink.schema import SchemaVersionError, migrate
from atlas_common.errors import FatalError

# A predecessor that is just stopping gives the file back within this time.
_OWNED_SECONDS_MAX = 5.0
# One that leads no more may have much to write down before it lets go.
_STOPPING_SECONDS_MAX = 60.0
_RETRY_SECONDS = 0.2


@contextmanager
def opened(
    config: WarehouseConfig, claim: Claim | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The file with its schema; made if it is missing. Blocks: run it in the owner's thread.

    With a claim a former leader that hangs is ended, and one that is just stopping waited for.

    Raises FatalError when another process owns the file, or it was made by a newer release.
    """
    config.path.parent.mkdir(parents=True, exist_ok=True)
    connection = _connect(config, claim)
    try:
        if claim is not None:
            leave_note(config.path, claim)
        try:
            migrate(connection)
        except SchemaVersionError as error:
            raise FatalError(f"ATLAS_WAREHOUSE__PATH: {config.path}: {error}") from error
        yield connection
    finally:
        if claim is not None:
            take_note_away(config.path)
        connection.close()  # Also checkpoints, so that the next start has nothing to replay.


def _connect(config: WarehouseConfig, claim: Claim | None) -> duckdb.DuckDBPyConnection:
    began = time.monotonic()
    give_up = began + (_OWNED_SECONDS_MAX if claim is None else _STOPPING_SECONDS_MAX)
    while True:
        try:
            return _configured(config)
        except duckdb.IOException as error:
            refusal = str(error)
            if "lock" not in refusal or time.monotonic() > give_up:
                raise FatalError(
                    f"ATLAS_WAREHOUSE__PATH: {config.path} cannot be opened. One process owns a"
                    f" warehouse; if another cdc-reconciler has it, stop that one: {error}"
                ) from error
        if claim is not None and time.monotonic() > began + claim.hung_owner_seconds:
            pid = hung_owner(config.path, claim, refusal)
            if pid is not None and claim.kills:
                end(pid)
        time.sleep(_RETRY_SECONDS)


def _configured(config: WarehouseConfig) -> duckdb.DuckDBPyConnection:
    remember_absent_modules()
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
