"""Which columns hold what: one point per row ("long"), or one per cell ("wide")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atlas_client.importing.errors import MappingError

ROLES = ("entity", "attribute", "time", "value")
_TIME_NAMES = ("time", "timestamp", "event_time")


@dataclass(frozen=True, slots=True)
class Shape:
    """Where to find the parts of the points. Of each pair, one is set."""

    time: str
    entity: str | None
    entity_key: str | None
    """The one entity of all rows."""
    values: tuple[str, ...]
    """One column, or those of a wide table, whose names are the attributes' then."""
    attribute: str | None
    attribute_name: str | None
    """The one attribute of all rows."""

    @property
    def is_wide(self) -> bool:
        """Every column is an attribute."""
        return self.attribute is None and self.attribute_name is None

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        named = [self.time, self.entity, self.attribute, *self.values]
        return list(dict.fromkeys(name for name in named if name is not None))


def parse_map(text: str) -> dict[str, str]:
    """Read "entity=host,time=ts". Raises MappingError."""
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        role, equals, column = part.partition("=")
        if not equals or role.strip() not in ROLES or not column:
            raise MappingError(
                f"--map {part!r}: write ROLE=COLUMN with a role of {', '.join(ROLES)}"
            )
        found[role.strip()] = column.strip()
    return found


def find_shape(
    columns: Sequence[str],
    mapped: Mapping[str, str],
    *,
    entity_key: str | None = None,
    attribute_name: str | None = None,
) -> Shape:
    """Find the parts in a table's columns. Raises MappingError, which says what to write."""
    for role, column in mapped.items():
        if column not in columns:
            raise MappingError(f"--map {role}={column}: no such column; {_there_are(columns)}")
    time = mapped.get("time") or next((name for name in _TIME_NAMES if name in columns), None)
    if time is None:
        raise MappingError(f"no column of times: say --map time=COLUMN; {_there_are(columns)}")
    entity = None if entity_key else mapped.get("entity") or _named("entity", columns)
    if entity is None and not entity_key:
        raise MappingError(
            "no column of entities: say --map entity=COLUMN, or --entity-key KEY for all rows;"
            f" {_there_are(columns)}"
        )
    attribute = None if attribute_name else mapped.get("attribute") or _named("attribute", columns)
    if attribute or attribute_name:
        value = mapped.get("value") or _named("value", columns)
        if value is None:
            raise MappingError(
                f"no column of values: say --map value=COLUMN; {_there_are(columns)}"
            )
        values: tuple[str, ...] = (value,)
    elif "value" in mapped:
        raise MappingError("a column of values needs --map attribute=COLUMN or --attribute NAME")
    else:
        values = tuple(name for name in columns if name not in {time, entity})
        if not values:
            raise MappingError(f"no column is left to be an attribute; {_there_are(columns)}")
    return Shape(time, entity, entity_key, values, attribute, attribute_name)


def _named(role: str, columns: Sequence[str]) -> str | None:
    return role if role in columns else None


def _there_are(columns: Sequence[str]) -> str:
    shown = ", ".join(name if name.isprintable() else repr(name) for name in columns[:20])
    return f"the file has {shown}{', ...' if len(columns) > 20 else ''}"
