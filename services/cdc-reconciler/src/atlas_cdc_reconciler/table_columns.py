"""How a comparison of one of the catalog's tables is kept: as the columns of a row. Pure."""

import json
from collections.abc import Sequence
from typing import Any

from atlas_cdc_reconciler.catalog_comparison import (
    ColumnDifference,
    KeyDifference,
    TableComparison,
)
from atlas_cdc_reconciler.differences import DifferenceKind
from atlas_cdc_reconciler.digest import Digest


def columns_of(table: TableComparison) -> dict[str, object]:
    """By the names of the statement's parameters. Sums are texts: they exceed 64 bits."""
    rows = [
        (one.kind.value, one.key, [(c.name, c.source, c.warehouse) for c in one.columns])
        for one in table.differences
    ]
    return {
        "table_name": table.table,
        "source": _numbers(table.source),
        "warehouse": _numbers(table.warehouse),
        "is_complete": table.is_complete,
        "differences": json.dumps(rows),
    }


def table_of(row: Sequence[Any]) -> TableComparison:
    """From (table_name, source, warehouse, is_complete, differences)."""
    name, source, warehouse, is_complete, differences = row
    return TableComparison(
        name,
        Digest(*map(int, source)),
        Digest(*map(int, warehouse)),
        tuple(
            KeyDifference(
                DifferenceKind(kind), key, tuple(ColumnDifference(*column) for column in columns)
            )
            for kind, key, columns in json.loads(differences)
        ),
        is_complete,
    )


def _numbers(digest: Digest) -> list[str]:
    return [str(digest.rows), str(digest.high), str(digest.low)]
