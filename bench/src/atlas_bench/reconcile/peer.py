"""reladiff comparing the same two tables, in a process of its own: one line of JSON in, one out.

It reads the table in Postgres and the one in the warehouse's file, which no service may own then.
It needs a key; (entity_id, attribute_id) is unique in this benchmark's history, and indexed. It has
less to compare: it does not know DuckDB's SMALLINT, so the quality is left out, and of the value
columns only those that are filled here are named.
"""

import json
import sys
import time
from typing import Any

_KEY = ("entity_id", "attribute_id")
_OTHERS = ("event_time", "ingested_at", "value_double", "value_int", "value_text")


def main() -> None:
    """Compare, and print {"seconds": ..., "differences": ...}."""
    from reladiff import (  # noqa: PLC0415 - not installed unless asked for.
        Algorithm,
        connect_to_table,
        diff_tables,
    )

    job: dict[str, Any] = json.loads(sys.stdin.readline())
    where = f"tenant_id = {int(job['tenant_id'])}"
    tables = [
        connect_to_table(url, name, _KEY, where=where, extra_columns=_OTHERS, thread_count=2)
        for url, name in (
            (job["source"], ("atlas", "entity_values_ts")),
            (f"duckdb://{job['warehouse']}", "entity_values_ts"),
        )
    ]
    began = time.monotonic()
    found = diff_tables(*tables, algorithm=Algorithm.HASHDIFF, threaded=True)
    differences = sum(1 for _ in found)
    answer = {"seconds": time.monotonic() - began, "differences": differences}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
