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


@dataclass(frozen=True, slots=True)
class AggregateQuery:
    """Times in microseconds since the epoch, half-open; None: no bound. bucket_us 0: one bucket."""

    functions: tuple[Function, ...]
    start_us: int | None
    end_us: int | None
    bucket_us: int
    group_by_entity: bool


@dataclass(frozen=True, slots=True)
class AggregateRow:
    """One row by ids; `entity_id` 0: all entities together, `bucket_us` None: no buckets."""

    entity_id: int
    attribute_id: int
    bucket_us: int | None
    results: tuple[float, ...]


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


def check_types(functions: Iterable[Function], attributes: Iterable[AttributeDef]) -> None:
    """Refuse functions that an attribute's type does not have (TYPE_MISMATCH)."""
    numeric_only = [function for function in functions if function is not Function.COUNT]
    if not numeric_only:
        return
    for attribute in attributes:
        if attribute.data_type not in NUMERIC:
            raise errors.invalid_argument(
                "TYPE_MISMATCH",
                f"{numeric_only[0].value} is of INT, DOUBLE and DECIMAL attributes,"
                f" {attribute.name!r} is {attribute.data_type.upper()}: only COUNT is possible",
                field="functions",
                attribute=attribute.name,
                attribute_type=attribute.data_type.value,
            )
