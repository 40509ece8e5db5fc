"""`python -m atlas_hotcache.indexing`: builds and drops indexes of cold attributes.

For sites that do not let the hotcache service hold the role atlas_indexer. It may be killed
anywhere, and started as often as one likes: one process builds at a time.
"""

import asyncio
import sys

from atlas_common import telemetry
from atlas_common.config import load
from atlas_hotcache.config import IndexingJobConfig
from atlas_hotcache.indexing.builder import Builder


def main() -> int:
    """Run until killed; 2: the configuration lacks the database."""
    config = load(IndexingJobConfig)
    if config.indexing.builder is None:
        sys.stderr.write("ATLAS_INDEXING__BUILDER__DSN is not set\n")
        return 2
    builder = Builder(config.indexing.builder, config.indexing)
    with telemetry.setup(
        "indexing", config.telemetry, instance=config.instance, settings=config.describe()
    ):
        asyncio.run(builder.run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
