"""JSON documents in a filter: jsonpath cannot compare them, the database does and tells it so."""

from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from typing import Any

from atlas_query.filters.literals import document, string
from atlas_query.filters.tree import Operand

_LOOKED_UP_MAX = 16
"""Values of one document that the index is asked for; more would narrow no further."""
_DEPTH_MAX = 8


class Documents:
    """The documents of one filter, by number."""

    def __init__(self) -> None:
        self._pairs: list[str] = []

    def flag(self, attribute_id: int, operand: Operand) -> str:
        """The predicate that an attribute equals a document. Raises ServiceError JSON_INVALID."""
        document(operand)  # Only a text that is one document by itself may stand in the array.
        self._pairs.append(f'["{attribute_id}", {operand.value}]')
        return f'exists($."={len(self._pairs)}" ? (@ == true))'

    def as_json(self) -> str | None:
        """All of them as a JSON array of pairs; None if there are none."""
        return f"[{', '.join(self._pairs)}]" if self._pairs else None


def narrowed(attribute_id: int, operand: Operand) -> str | None:
    """What is true of every document that equals this one, and can be looked up.

    Some of its values, each at its path. None: it holds nothing but empty objects and arrays,
    which are not in the index.
    """
    found = list(islice(_values(f'$."{attribute_id}"', document(operand), 0), _LOOKED_UP_MAX))
    return f"({' && '.join(found)})" if found else None


def _values(path: str, part: Any, depth: int) -> Iterator[str]:
    if depth > _DEPTH_MAX:
        return
    match part:
        case dict():
            for key, member in part.items():
                yield from _values(f"{path}.{string(key)}", member, depth + 1)
        case list():
            for item in part:
                yield from _values(f"{path}[*]", item, depth + 1)
        case _:
            yield f"exists({path} ? (@ == {_literal(part)}))"


def _literal(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Decimal():
            return str(value)
        case _:
            return string(value)
