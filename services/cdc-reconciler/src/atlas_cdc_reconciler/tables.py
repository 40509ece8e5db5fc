"""The tables that the warehouse copies: which columns, of which type, found again by which key."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

# json, bpchar, varchar, name: sent as text is.
_TEXT_OIDS = frozenset({114, 1042, 1043, 19})


class ColumnType(Enum):
    """A type on both sides: its oid in Postgres (see pg_type.dat) and its name in the warehouse."""

    BOOL = (16, "BOOLEAN")
    INT2 = (21, "SMALLINT")
    INT4 = (23, "INTEGER")
    INT8 = (20, "BIGINT")
    DOUBLE = (701, "DOUBLE")
    DECIMAL = (1700, "DECIMAL(38,18)")
    # A numeric without bounds fits no decimal of the warehouse: its exact decimal text is kept.
    NUMERIC_TEXT = (1700, "VARCHAR")
    TEXT = (25, "VARCHAR")
    TEXT_ARRAY = (1009, "VARCHAR[]")
    TIME = (1184, "TIMESTAMPTZ")
    # Postgres' own text of a jsonb, byte for byte: the two sides are compared by it.
    JSON = (3802, "VARCHAR")
    # Of columns that the source adds: what has no counterpart here is kept as hexadecimal text.
    OTHER = (0, "VARCHAR")

    @classmethod
    def of(cls, oid: int) -> "ColumnType":
        """How a column that the source adds is kept."""
        if oid == cls.DECIMAL.oid:
            return cls.NUMERIC_TEXT
        return next((known for known in cls if known.fits(oid)), cls.OTHER)

    def fits(self, oid: int) -> bool:
        """Whether values of this type at the source are read as what the warehouse has."""
        return oid == self.oid or (self is ColumnType.TEXT and oid in _TEXT_OIDS)

    @property
    def oid(self) -> int:
        """The oid in Postgres."""
        return self.value[0]

    @property
    def warehouse_type(self) -> str:
        """The SQL type in the warehouse."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is copied."""

    name: str
    type: ColumnType
    not_null: bool = True


@dataclass(frozen=True)
class Table:
    """A table that is copied. Without a key, a row is found again by all of its columns."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    by_tenant: bool
    """Whether row-level security hides it from all but one tenant at a time."""
    observation: tuple[str, ...] = ()
    """Without a key: the columns that say which row it is, as far as anything does."""

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns, in the warehouse's order."""
        return tuple(column.name for column in self.columns)

    @property
    def identity(self) -> tuple[str, ...]:
        """What two changes have in common if they are of one row; a tenant_id comes first."""
        return self.key or self.observation

    @property
    def has_tenant(self) -> bool:
        """Whether each row belongs to a tenant."""
        return self.identity[0] == "tenant_id"

    def column(self, name: str) -> Column:
        """The column of this name. Raises KeyError."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


def _nullable(name: str, column_type: ColumnType) -> Column:
    return Column(name, column_type, not_null=False)


T = ColumnType
HISTORY = Table(
    "entity_values_ts",
    (
        Column("tenant_id", T.INT4),
        Column("attribute_id", T.INT4),
        Column("entity_id", T.INT8),
        Column("event_time", T.TIME),
        Column("ingested_at", T.TIME),
        _nullable("value_int", T.INT8),
        _nullable("value_double", T.DOUBLE),
        _nullable("value_time", T.TIME),
        Column("quality", T.INT2),
        _nullable("value_bool", T.BOOL),
        _nullable("value_decimal", T.DECIMAL),
        _nullable("value_text", T.TEXT),
        _nullable("value_json", T.JSON),
    ),
    key=(),
    by_tenant=True,
    observation=("tenant_id", "entity_id", "attribute_id", "event_time", "ingested_at"),
)
HEARTBEAT = Table(
    "replication_heartbeat",
    (Column("id", T.INT2), Column("beat_id", T.INT8), Column("beaten_at", T.TIME)),
    key=("id",),
    by_tenant=False,
)
_TABLES = (
    Table(
        "tenants",
        (
            Column("tenant_id", T.INT4),
            Column("key", T.TEXT),
            Column("display_name", T.TEXT),
            Column("status", T.TEXT),
            Column("unknown_attribute_policy", T.TEXT),
            Column("created_at", T.TIME),
        ),
        key=("tenant_id",),
        by_tenant=False,
    ),
    Table(
        "entities",
        (
            Column("tenant_id", T.INT4),
            Column("entity_id", T.INT8),
            Column("key", T.TEXT),
            Column("created_at", T.TIME),
        ),
        key=("tenant_id", "entity_id"),
        by_tenant=True,
    ),
    Table(
        "attributes",
        (
            Column("tenant_id", T.INT4),
            Column("attribute_id", T.INT4),
            Column("name", T.TEXT),
            Column("data_type", T.TEXT),
            Column("unit", T.TEXT),
            Column("validation_regex", T.TEXT),
            _nullable("min_value", T.NUMERIC_TEXT),
            _nullable("max_value", T.NUMERIC_TEXT),
            Column("allowed_values", T.TEXT_ARRAY),
            Column("is_hot", T.BOOL),
            Column("created_at", T.TIME),
            Column("updated_at", T.TIME),
        ),
        key=("tenant_id", "attribute_id"),
        by_tenant=True,
    ),
    HISTORY,
    Table(
        "flush_positions",
        (
            Column("lane", T.INT2),
            Column("epoch", T.INT8),
            Column("sequence", T.INT8),
            Column("flushed_at", T.TIME),
        ),
        key=("lane",),
        by_tenant=False,
    ),
    Table(
        "lane_epochs",
        (
            Column("lane", T.INT2),
            Column("epoch", T.INT8),
            Column("first_sequence", T.INT8),
            Column("claimed_at", T.TIME),
        ),
        key=("lane", "epoch"),
        by_tenant=False,
    ),
    HEARTBEAT,
)
TABLES: Mapping[str, Table] = MappingProxyType({table.name: table for table in _TABLES})
"""The publication's tables, by name."""
