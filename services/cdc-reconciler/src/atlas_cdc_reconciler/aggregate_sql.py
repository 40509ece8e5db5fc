"""The warehouse's SQL of an aggregate query; pure."""

from dataclasses import dataclass
from enum import Enum


class Function(Enum):
    """What is made of the values of a group; the values are its SQL.

    An attribute keeps its type, so of the three numeric columns one has the values, the others are
    NULL. Whole numbers are added up exactly before they become a double.
    """

    COUNT = "count(*)::DOUBLE"
    SUM = "coalesce(sum(value_int)::DOUBLE, sum(value_double), sum(value_decimal::DOUBLE))"
    AVG = "coalesce(avg(value_int), avg(value_double), avg(value_decimal::DOUBLE))"
    MIN = "coalesce(min(value_int)::DOUBLE, min(value_double), min(value_decimal)::DOUBLE)"
    MAX = "coalesce(max(value_int)::DOUBLE, max(value_double), max(value_decimal)::DOUBLE)"


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


def aggregate_sql(query: AggregateQuery, rows_max: int) -> tuple[str, dict[str, object]]:
    """The statement and its parameters.

    Rows: (entity_id or 0, attribute_id, bucket start or NULL, one double or NULL per function),
    ordered by the first three; one row more than `rows_max` says that there are more.
    """
    conditions = ["tenant_id = $tenant_id", "list_contains($attribute_ids, attribute_id)"]
    parameters: dict[str, object] = {
        "tenant_id": query.tenant_id,
        "attribute_ids": list(query.attribute_ids),
        "rows_limit": rows_max + 1,
    }
    if query.entity_ids:
        conditions.append("list_contains($entity_ids, entity_id)")
        parameters["entity_ids"] = list(query.entity_ids)
    if query.start_us is not None:
        conditions.append("event_time >= make_timestamptz($start_us)")
        parameters["start_us"] = query.start_us
    if query.end_us is not None:
        conditions.append("event_time < make_timestamptz($end_us)")
        parameters["end_us"] = query.end_us
    bucket = "NULL::BIGINT"
    if query.bucket_us:
        # The remainder is made positive first: times before 1970 lie in buckets as well.
        bucket = (
            "epoch_us(event_time) - ((epoch_us(event_time) % $bucket_us) + $bucket_us) % $bucket_us"
        )
        parameters["bucket_us"] = query.bucket_us
    entity = "entity_id" if query.group_by_entity else "0::BIGINT"
    results = ", ".join(function.value for function in query.functions)
    sql = f"""
        SELECT {entity} AS entity, attribute_id, {bucket} AS bucket, {results}
        FROM entity_values_ts
        WHERE {" AND ".join(conditions)}
        GROUP BY entity, attribute_id, bucket
        ORDER BY entity, attribute_id, bucket
        LIMIT $rows_limit"""  # noqa: S608 - made of our own names and placeholders.
    return sql, parameters
