"""Whether archives are still what was written: the only copy of what retention dropped."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from atlas_common.config import DatabaseConfig
from atlas_common.db import direct_connection
from atlas_ingest.maintenance.archive import checksum_of
from atlas_ingest.maintenance.partitions import Q


@dataclass(frozen=True, slots=True)
class Verified:
    """An archive that was read."""

    path: str
    problem: str
    """Empty: it is whole."""


async def verify_archives(database: DatabaseConfig, directory: Path) -> Sequence[Verified]:
    """Read all archives and compare them with what the database knows of them.

    Raises ServiceError, psycopg.Error.
    """
    async with direct_connection(database, name="ingest archives") as connection:
        archives = await (await connection.execute(Q["archives"])).fetchall()
    return [
        Verified(path, await asyncio.to_thread(_problem, directory / path, row_count, checksum))
        for path, row_count, checksum in archives
    ]


def _problem(file: Path, row_count: int, checksum: str) -> str:
    try:
        found = checksum_of(file)
    except FileNotFoundError:
        return f"is not in {file.parent}"
    except (OSError, pa.ArrowException) as error:
        return f"cannot be read: {error}"
    if (found.row_count, found.text()) == (row_count, checksum):
        return ""
    return (
        f"has {found.row_count} rows {found.text()}, archived were {row_count} rows {checksum}:"
        " look for another copy of the file"
    )
