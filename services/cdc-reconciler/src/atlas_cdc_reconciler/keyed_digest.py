"""SQL that digests the tables with a key, the same on every engine; pure. See `digest`.

A row's canonical text is its columns, each as <octets>:<text>, or N for NULL, joined by bars:

    integers        decimal digits
    bool            t or f
    text            UTF-8
    time            16 hexadecimal digits, as in `digest`
    numeric         plain notation without zeros at its end
    list of texts   its items, each as <octets>:<text>, by commas

Rows are gathered by the hash of their key, so that both versions of a row lie in the same bucket.
"""

from dataclasses import dataclass
from functools import cache

from atlas_cdc_reconciler.canonical import time_of_digits, time_text
from atlas_cdc_reconciler.digest import Engine
from atlas_cdc_reconciler.tables import Column, ColumnType, Table

_NULL = "N"
_TEXTS = {
    ColumnType.TEXT: "{c}",
    ColumnType.BOOL: "CASE WHEN {c} THEN 't' WHEN NOT {c} THEN 'f' END",
}
_TEXTS_OF: dict[Engine, dict[ColumnType, str]] = {
    Engine.POSTGRES: {
        ColumnType.NUMERIC_TEXT: "trim_scale({c})::varchar",
        ColumnType.TEXT_ARRAY: (
            "(SELECT coalesce(string_agg(octet_length(i.item) || ':' || i.item, ',' ORDER BY i.at),"
            " '') FROM unnest({c}) WITH ORDINALITY AS i (item, at))"
        ),
    },
    Engine.DUCKDB: {
        ColumnType.NUMERIC_TEXT: (
            "CASE WHEN contains({c}, '.') THEN rtrim(rtrim({c}, '0'), '.') ELSE {c} END"
        ),
        ColumnType.TEXT_ARRAY: (
            "coalesce(array_to_string("
            "list_transform({c}, lambda item: strlen(item) || ':' || item), ','), '')"
        ),
    },
}


@dataclass(frozen=True, slots=True)
class Placeholders:
    """An engine's placeholders of what is asked for."""

    tenant_id: str
    digits: str
    """How many digits of a key's hash make a bucket."""
    is_wanted: str
    """A condition on `bucket`."""
    rows_max: str


@cache
def key_bucket_digests_sql(engine: Engine, table: Table, given: Placeholders) -> str:
    """The statement that digests a tenant's rows by bucket: (bucket, rows, high, low)."""
    return f"""
        SELECT substr(key_hash, 1, {given.digits}) AS bucket, count(*),
            sum({engine.limb("hash", 0)}), sum({engine.limb("hash", 1)})
        FROM (
            SELECT md5({_key(engine, table)}) AS key_hash,
                {engine.hash(_row(engine, table))} AS hash
            FROM {table.name}
            WHERE tenant_id = {given.tenant_id}
            {engine.fence}
        ) AS hashed
        GROUP BY bucket"""  # noqa: S608 - made of our own names and placeholders.


@cache
def keyed_rows_sql(engine: Engine, table: Table, given: Placeholders) -> str:
    """The statement that reads a tenant's rows of some buckets: (key, canonical text)."""
    return f"""
        SELECT key_text, row_text
        FROM (
            SELECT {_key(engine, table)} AS key_text, {_row(engine, table)} AS row_text,
                substr(md5({_key(engine, table)}), 1, {given.digits}) AS bucket
            FROM {table.name}
            WHERE tenant_id = {given.tenant_id}
            {engine.fence}
        ) AS hashed
        WHERE {given.is_wanted}
        LIMIT {given.rows_max}"""  # noqa: S608 - made of our own names and placeholders.


def shown_key(table: Table, key_text: str) -> str:
    """A key for people."""
    parts = zip(table.key, key_text.split("|"), strict=True)
    return ", ".join(f"{name}={value}" for name, value in parts)


def shown_columns(table: Table, row_text: str) -> dict[str, str | None]:
    """A row's values for people, by column. Raises ValueError for what is no canonical text."""
    rest = row_text.encode()
    values: dict[str, str | None] = {}
    for column in table.columns:
        if rest.startswith(_NULL.encode()):
            values[column.name], rest = None, rest[len(_NULL) :]
        else:
            size, _, rest = rest.partition(b":")
            value, rest = rest[: int(size)].decode(), rest[int(size) :]
            values[column.name] = _shown(column, value)
        rest = rest.removeprefix(b"|")
    return values


def _shown(column: Column, value: str) -> str:
    return time_text(time_of_digits(value)) if column.type is ColumnType.TIME else value


def _key(engine: Engine, table: Table) -> str:
    return engine.joined(table.key)


def _row(engine: Engine, table: Table) -> str:
    return engine.joined([_part(engine, column) for column in table.columns])


def _part(engine: Engine, column: Column) -> str:
    text = _text(engine, column)
    return f"coalesce({engine.octets(text)} || ':' || {text}, '{_NULL}')"


def _text(engine: Engine, column: Column) -> str:
    if column.type is ColumnType.TIME:
        return engine.time_digits(column.name)
    template = _TEXTS_OF.get(engine, {}).get(column.type) or _TEXTS.get(column.type)
    return (template or "{c}::varchar").format(c=column.name)
