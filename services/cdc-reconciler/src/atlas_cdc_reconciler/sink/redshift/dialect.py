"""What is different in Redshift: its types, limits, names and comparisons; pure.

Redshift is a PostgreSQL 8 in its grammar and a column store below: no RETURNING, no ON CONFLICT, no
row ids, no IS NOT DISTINCT FROM, no keys that are enforced. What the statements here rely on is in
the Database Developer Guide, https://docs.aws.amazon.com/redshift/latest/dg/cm_chap_SQLCommandRef.html
"""

from collections.abc import Iterator
from dataclasses import dataclass

from atlas_cdc_reconciler.tables import Column, ColumnType, Table

TEXT_OCTETS_MAX = 65_535
"""Of a VARCHAR; it counts bytes, not characters."""
STATEMENT_OCTETS_MAX = 16 * 2**20
CHANGE_NUMBER = "change_no"
"""Column of a staging table: which change of the batch a row comes from."""
COPIES = "copies"
"""Column of a staging table of deletions: how many rows with these values were deleted."""
_BITS = "_bits"
_EPOCH = "TIMESTAMP '1970-01-01 00:00:00'"

_T = ColumnType
_TEXTS = frozenset({_T.TEXT, _T.JSON, _T.NUMERIC_TEXT, _T.TEXT_ARRAY})
_TYPES = {
    _T.BOOL: "BOOLEAN",
    _T.INT2: "SMALLINT",
    _T.INT4: "INTEGER",
    _T.INT8: "BIGINT",
    _T.DOUBLE: "DOUBLE PRECISION",
    _T.DECIMAL: "DECIMAL(38,18)",
    _T.TIME: "TIMESTAMPTZ",
    # Not SUPER: it makes 2.50 into 2.5 and sorts keys, and both sides are compared by their text.
    **dict.fromkeys(_TEXTS, f"VARCHAR({TEXT_OCTETS_MAX})"),
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A column as it is in Redshift."""

    name: str
    type: ColumnType
    not_null: bool
    is_bits: bool = False
    """The 64 bits of a double, as a BIGINT: Redshift has no function that shows them."""
    has_bits: bool = False
    """Another column has the bits of this one."""

    @property
    def sql_type(self) -> str:
        """Its type in the table."""
        return "BIGINT" if self.is_bits else _TYPES[self.type]

    @property
    def staged_type(self) -> str:
        """Its type in a staging table: COPY from Parquet knows no TIMESTAMPTZ."""
        return "BIGINT" if self.type is ColumnType.TIME else self.sql_type

    @property
    def is_text(self) -> bool:
        """Whether it is a VARCHAR."""
        return self.type in _TEXTS

    def value(self, stage: str) -> str:
        """The column's value from the staging table's."""
        staged = f"{stage}.{quoted(self.name)}"
        if self.type is not ColumnType.TIME:
            return staged
        return f"DATEADD(microsecond, {staged}, {_EPOCH}) AT TIME ZONE 'UTC'"

    def is_same(self, table: str, stage: str) -> str | None:
        """Whether the table's value is the staged one, NULL included; None: others decide that."""
        if self.has_bits:  # As numbers 0.0 = -0.0, and what NaN equals is not documented.
            return None
        ours, theirs = f"{table}.{quoted(self.name)}", self.value(stage)
        same = f"{ours} = {theirs}"
        if self.is_text:  # Comparing may pass over blanks at the end.
            same += f" AND OCTET_LENGTH({ours}) = OCTET_LENGTH({theirs})"
        if self.not_null:
            return same
        return f"({same} OR ({ours} IS NULL AND {stage}.{quoted(self.name)} IS NULL))"


def bits_name(column: str) -> str:
    """The column that has the bits of a double."""
    return column + _BITS


def stored_columns(table: Table) -> tuple[Stored, ...]:
    """The table's columns in Redshift, in order."""
    return tuple(stored for column in table.columns for stored in stored_as(column))


def stored_as(column: Column) -> Iterator[Stored]:
    """A column, and what else stands for it."""
    is_double = column.type is ColumnType.DOUBLE
    yield Stored(column.name, column.type, column.not_null, has_bits=is_double)
    if is_double:
        yield Stored(bits_name(column.name), column.type, column.not_null, is_bits=True)


def quoted(name: str) -> str:
    """A name as an identifier: some of ours (`raw`, `key`) are words of the language."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as a constant. Raises ValueError for one that would need an escape.

    A backslash is an escape in Redshift and is none in standard SQL; what we write has neither.
    """
    if "'" in text or "\\" in text or not text.isprintable():
        raise ValueError(f"{text!r} has a quote, a backslash or an unprintable character")
    return f"'{text}'"
