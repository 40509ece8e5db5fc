"""The named queries of warehouse.sql."""

from collections.abc import Mapping

from atlas_common.db import load_queries

Q: Mapping[str, str] = {
    name: query.decode()
    for name, query in load_queries("atlas_cdc_reconciler", file="warehouse.sql").items()
}
