"""What an aggregate asks for, by ids. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from atlas_common import errors
from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType
from atlas_query.proof import Proof

NUMERIC = frozenset({DataType.INT, DataType.DOUBLE, DataType.DECIMAL})


class Function(Enum):
    """An aggregate function."""

    COUNT = "COUNT"
    SUM = "SUM"
    AVG = "AVG"
    MIN = "MIN"
    MAX = "MAX"
    FIRST = "FIRST"
    LAST = "LAST"


@dataclass(frozen=True, slots=True)
class AggregateQuery:
    """Times in microseconds since the epoch, half-open; None: no bound. bucket_us 0: one bucket."""

    functions: tuple[Function, ...]
    start_us: int | None
    end_us: int | None
    bucket_us: int
    group_by_entity: bool
    percentiles: tuple[float, ...] = ()
    """0 to 100 each."""
    group_by_quality: bool = False


@dataclass(frozen=True, slots=True)
class AggregateRow:
    """One row by ids; `entity_id` 0: all entities together, `bucket_us` None: no buckets.

    `quality` None: all of them together.
    """

    entity_id: int
    attribute_id: int
    bucket_us: int | None
    results: tuple[float, ...]
    quality: int | None = None


@dataclass(frozen=True, slots=True)
class WarehouseProof:
    """What the warehouse proves of its answer; `token` is sealed by it."""

    proof: Proof
    token: bytes
    verified_through: datetime | None


@dataclass(frozen=True, slots=True)
class WarehousePart:
    """Rows of an answer; the first part has the proof."""

    rows: Sequence[AggregateRow]
    proof: WarehouseProof | None


def check_types(query: AggregateQuery, attributes: Iterable[AttributeDef]) -> None:
    """Refuse functions that an attribute's type does not have (TYPE_MISMATCH)."""
    named = {
        "functions": [each.value for each in query.functions if each is not Function.COUNT],
        "percentiles": [f"percentile {each:g}" for each in query.percentiles],
    }
    asked = [(field, names[0]) for field, names in named.items() if names]
    if not asked:
        return
    field, name = asked[0]
    for attribute in attributes:
        if attribute.data_type not in NUMERIC:
            raise errors.invalid_argument(
                "TYPE_MISMATCH",
                f"{name} is of INT, DOUBLE and DECIMAL attributes, {attribute.name!r} is"
                f" {attribute.data_type.upper()}: only COUNT is possible (GetHistory with"
                " downsample has FIRST and LAST of every type)",
                field=field,
                attribute=attribute.name,
                attribute_type=attribute.data_type.value,
            )
