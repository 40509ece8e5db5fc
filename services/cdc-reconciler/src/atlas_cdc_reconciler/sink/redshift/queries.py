"""The named queries."""

from atlas_common.db import load_queries

Q = {
    name: query.decode()
    for name, query in load_queries("atlas_cdc_reconciler", file="redshift.sql").items()
}
