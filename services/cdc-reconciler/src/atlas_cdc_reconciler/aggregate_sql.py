"""The warehouse's SQL of an aggregate query; pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Function(Enum):
    """What is made of the values of a group; the values are its SQL over one column.

    Whole numbers are added up exactly before they become a double. Where several values have the
    first or last event time, the one ingested first or last counts.
    """

    COUNT = "count(*)::DOUBLE"
    SUM = "sum({column})::DOUBLE"
    AVG = "avg({column})::DOUBLE"
    MIN = "min({column})::DOUBLE"
    MAX = "max({column})::DOUBLE"
    FIRST = "arg_min({column}, row(event_time, ingested_at))::DOUBLE"
    LAST = "arg_max({column}, row(event_time, ingested_at))::DOUBLE"


# Times lie in the years 1 to 9999, in microseconds since 1970.
_BEFORE_1970_US = 62_135_596_800_000_000
_TIME_US_MAX = 253_402_300_800_000_000
_INTEGER_MAX = 2**31 - 1
NUMERIC_TYPES = frozenset({"int", "double", "decimal"})
"""Types of attributes (attributes.data_type) that have numbers, in a column of their own."""


@dataclass(frozen=True, slots=True)
class AggregateQuery:
    """Which values of a tenant to group, and what to make of each group."""

    tenant_id: int
    attribute_ids: tuple[int, ...]
    entity_ids: tuple[int, ...]
    """Empty: all."""
    start_us: int | None
    """Event time, half-open, microseconds since 1970; None: unbounded."""
    end_us: int | None
    bucket_us: int
    """Width of a bucket of event time, aligned to 1970; 0: one bucket."""
    functions: tuple[Function, ...]
    group_by_entity: bool
    percentiles: tuple[float, ...] = ()
    """0 to 100 each."""
    group_by_quality: bool = False

    @property
    def needs_numbers(self) -> bool:
        """Whether it asks for more than a count."""
        return bool(self.percentiles) or bool(set(self.functions) - {Function.COUNT})


def aggregate_sql(
    query: AggregateQuery, types: Iterable[str], rows_max: int
) -> tuple[str, dict[str, object]]:
    """The statement and its parameters, for attributes of these types.

    Rows: (entity_id or 0, attribute_id, bucket start or NULL, quality or NULL, one double or NULL
    per function, then per percentile), ordered by the first four; one row more than `rows_max` says
    that there are more.
    """
    conditions, parameters = _selected(query)
    parameters["rows_limit"] = rows_max + 1
    # What is the same in all rows is no key of the groups: each costs time with every point.
    keys = {"attribute_id": "attribute_id"}
    bucket = "NULL::BIGINT"
    if query.bucket_us:
        keys["bucket_number"] = _bucket_number(query.bucket_us)
        bucket = f"bucket_number::BIGINT * {query.bucket_us} - {_shift_us(query.bucket_us)}"
    if query.group_by_entity:
        keys["entity_id"] = "entity_id"
    if query.group_by_quality:
        keys["quality"] = "quality"
    results = ", ".join(_results(query, types))
    sql = f"""
        SELECT
            {keys.get("entity_id", "0::BIGINT")} AS entity, attribute_id, {bucket} AS bucket,
            {keys.get("quality", "NULL::SMALLINT")} AS grade, {results}
        FROM (SELECT *, {keys.get("bucket_number", "0")} AS bucket_number FROM entity_values_ts)
        WHERE {conditions}
        GROUP BY {", ".join(keys)}
        ORDER BY entity, attribute_id, bucket, grade
        LIMIT $rows_limit"""  # noqa: S608 - made of our own names, numbers and placeholders.
    return sql, parameters


def _bucket_number(bucket_us: int) -> str:
    """The bucket of a point: counted from before all times, so that none is negative.

    One division, which rounds down then as well; a narrow type where it suffices. Both show.
    """
    number = f"(epoch_us(event_time) + {_shift_us(bucket_us)}) // {bucket_us}"
    return f"({number})::INTEGER" if 2 * _TIME_US_MAX // bucket_us < _INTEGER_MAX else number


def _shift_us(bucket_us: int) -> int:
    return -(-_BEFORE_1970_US // bucket_us) * bucket_us


def point_count_sql(query: AggregateQuery) -> tuple[str, dict[str, object]]:
    """How many points the query is about: one row, one number."""
    conditions, parameters = _selected(query)
    return f"SELECT count(*) FROM entity_values_ts WHERE {conditions}", parameters  # noqa: S608


def _selected(query: AggregateQuery) -> tuple[str, dict[str, object]]:
    conditions = ["tenant_id = $tenant_id", f"attribute_id IN ({_ids(query.attribute_ids)})"]
    parameters: dict[str, object] = {"tenant_id": query.tenant_id}
    if query.entity_ids:
        conditions.append(f"entity_id IN ({_ids(query.entity_ids)})")
    if query.start_us is not None:
        conditions.append("event_time >= make_timestamptz($start_us)")
        parameters["start_us"] = query.start_us
    if query.end_us is not None:
        conditions.append("event_time < make_timestamptz($end_us)")
        parameters["end_us"] = query.end_us
    return " AND ".join(conditions), parameters


def _ids(ids: Iterable[int]) -> str:
    # Of a list of numbers DuckDB makes ranges that skip row groups; of a parameter it does not.
    return ", ".join(str(int(number)) for number in ids)


def _results(query: AggregateQuery, types: Iterable[str]) -> Iterable[str]:
    # An attribute keeps its type, so of a group one column has the values, the others are NULL; to
    # leave out those that all are empty makes an average three times as fast.
    columns = [f"value_{data_type}" for data_type in sorted(set(types) & NUMERIC_TYPES)]
    columns = columns or ["NULL::DOUBLE"]
    for function in query.functions:
        if function is Function.COUNT:
            yield function.value
        else:
            yield _first_of(_computed(function, column) for column in columns)
    if query.percentiles:
        number = _first_of(f"{column}::DOUBLE" for column in columns)
        shares = ", ".join(repr(percentile / 100) for percentile in query.percentiles)
        for at in range(1, 1 + len(query.percentiles)):
            # The same expression each time: it is computed once.
            yield f"quantile_cont({number}, [{shares}])[{at}]"


def _computed(function: Function, column: str) -> str:
    if function in {Function.SUM, Function.AVG} and column == "value_decimal":
        column += "::DOUBLE"  # Two decimals of 38 digits have no sum that is one.
    return function.value.format(column=column)


def _first_of(expressions: Iterable[str]) -> str:
    return f"coalesce({', '.join(expressions)})"
