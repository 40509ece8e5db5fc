"""`python -m atlas_hotcache.indexing`: builds and drops indexes of cold attributes.

For sites that do not let the hotcache service hold the role atlas_indexer. It may be killed
anywhere, and started as often as one likes: one process builds at a time.
"""

import asyncio
import sys

from atlas_common import telemetry
from atlas_common.config import DatabaseConfig, load
from atlas_common.errors import FatalError
from atlas_common.secrets.opened import secrets_opened
from atlas_hotcache.config import IndexingJobConfig
from atlas_hotcache.indexing.builder import Builder


def main() -> int:
    """Run until killed; 2: the configuration lacks the database, or its password cannot be read."""
    config = load(IndexingJobConfig)
    if config.indexing.builder is None:
        sys.stderr.write("ATLAS_INDEXING__BUILDER__DSN is not set\n")
        return 2
    with telemetry.setup(
        "indexing", config.telemetry, instance=config.instance, settings=config.describe()
    ):
        try:
            asyncio.run(_build(config, config.indexing.builder))
        except FatalError as error:
            sys.stderr.write(f"{error}\n")
            return 2
    return 0


async def _build(config: IndexingJobConfig, database: DatabaseConfig) -> None:
    async with secrets_opened(config):
        await Builder(database, config.indexing).run()


if __name__ == "__main__":
    sys.exit(main())
