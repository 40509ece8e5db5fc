"""A filter with cold attributes, for the database's find_by_latest(): 13_find_by_latest.sql in db.

The whole filter is one jsonpath as of hot attributes alone; the database puts the cold values in.
What is made here besides is where to look: a *way* is a list of alternatives of which every entity
that matches has at least one. Of an `all_of` each part is a way, of an `any_of` the parts' ways
together are one; what is negated is none. Ways may find more than matches, never less.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType, Scalar, us_to_datetime
from atlas_query.filters.compile import Compiler
from atlas_query.filters.documents import Documents
from atlas_query.filters.tree import (
    EVERY_ENTITY,
    AllOf,
    AnyOf,
    Equals,
    Exists,
    Filter,
    Leaf,
    Not,
    Operand,
    Range,
    leaves,
)

_WAYS_MAX = 3
_ALTERNATIVES_MAX = 16
_ORDERED_VALUES_MAX = 8
"""Beyond so many, walking from candidate to candidate takes too many look-ups each step."""


@dataclass(frozen=True, slots=True)
class ColdMatch:
    """The arguments of the database's find_by_latest()."""

    condition: str | None
    """The whole filter as a jsonpath predicate; None: every entity matches."""
    hot_condition: str | None
    """What follows from it for hot attributes alone; None: nothing."""
    documents: str | None
    """As in Match."""
    ways: str
    """JSON: where to look, the best first."""
    cold_ids: tuple[int, ...]
    """The cold attributes."""


@dataclass(frozen=True, slots=True)
class _Way:
    """Alternatives: a jsonpath on hot attributes, values of cold ones."""

    rank: int
    """The lower, the fewer candidates are to be expected."""
    hot: str | None = None
    cold: tuple[dict[str, Any], ...] = ()

    def told(self) -> dict[str, Any]:
        values = [len(alternative.get("in", ())) for alternative in self.cold]
        is_ordered = self.hot is None and all(values) and sum(values) <= _ORDERED_VALUES_MAX
        return {"is_ordered": is_ordered, "hot": self.hot, "cold": self.cold}


def compile_cold_filter(tree: Filter, attributes: Mapping[str, AttributeDef]) -> ColdMatch:
    """The match of a filter that check_filter() let pass. Raises as compile_filter()."""
    documents = Documents()
    compiler = Compiler(attributes, documents)
    whole = compiler.compile(tree)
    positive = _positive(tree, is_negated=False)
    hot = compiler.compile(_weakened(positive, attributes))
    ways = _Ways(attributes, compiler).of(positive)
    cold_ids = {
        attributes[leaf.attribute].attribute_id
        for leaf in leaves(tree)
        if not attributes[leaf.attribute].is_hot
    }
    return ColdMatch(
        whole.condition,
        hot.condition,
        documents.as_json(),
        json.dumps([way.told() for way in sorted(ways, key=_rank)[:_WAYS_MAX]]),
        tuple(sorted(cold_ids)),
    )


def _positive(tree: Filter, *, is_negated: bool) -> Filter:
    """The same filter, with `Not` before leaves only."""
    match tree:
        case Not(part):
            return _positive(part, is_negated=not is_negated)
        case AllOf(parts) | AnyOf(parts):
            inner = tuple(_positive(part, is_negated=is_negated) for part in parts)
            if isinstance(tree, AllOf) is is_negated:
                # Of no parts, the opposite of "every entity" is "none", as the compiler has it.
                return AnyOf(inner)
            return AllOf(inner)
        case _:
            return Not(tree) if is_negated else tree


def _weakened(tree: Filter, attributes: Mapping[str, AttributeDef]) -> Filter:
    """A positive filter with each condition on a cold attribute replaced by what is always true."""
    match tree:
        case AllOf(parts):
            return AllOf(tuple(_weakened(part, attributes) for part in parts))
        case AnyOf(parts):
            return AnyOf(tuple(_weakened(part, attributes) for part in parts))
        case _:
            leaf = next(leaves(tree))
            return tree if attributes[leaf.attribute].is_hot else EVERY_ENTITY


class _Ways:
    def __init__(self, attributes: Mapping[str, AttributeDef], compiler: Compiler) -> None:
        self._attributes = attributes
        self._compiler = compiler

    def of(self, tree: Filter) -> list[_Way]:
        """The ways to the entities that match a positive filter; none: nothing narrows."""
        if all(self._attributes[leaf.attribute].is_hot for leaf in leaves(tree)):
            narrowing = self._compiler.compile(tree).narrowing
            return [] if narrowing is None else [_Way(1, narrowing)]
        match tree:
            case AllOf(parts):
                return [way for part in parts for way in self.of(part)]
            case AnyOf(parts):
                return self._any(parts)
            case Not():
                return []
            case _:
                return [self._cold(tree)]

    def _any(self, parts: tuple[Filter, ...]) -> list[_Way]:
        best: list[_Way] = []
        for part in parts:
            ways = self.of(part)
            if not ways:
                return []
            best.append(min(ways, key=_rank))
        hot = [way.hot for way in best if way.hot is not None]
        cold = tuple(alternative for way in best for alternative in way.cold)
        if len(cold) > _ALTERNATIVES_MAX:
            return []
        joined = f"({' || '.join(hot)})" if hot else None
        return [_Way(max(map(_rank, best)), joined, cold)]

    def _cold(self, leaf: Leaf) -> _Way:
        attribute = self._attributes[leaf.attribute]
        told: dict[str, Any] = {
            "attribute": attribute.attribute_id,
            "type": attribute.data_type.value,
        }
        match leaf:
            case Equals(operands=operands):
                told["in"] = list(dict.fromkeys(_text(operand) for operand in operands))
                rank = 3 if attribute.data_type is DataType.BOOL else 0
            case Range(lower=lower, upper=upper):
                # Also what is at an end that is not included: the whole filter decides.
                if lower is not None:
                    told["from"] = _text(lower.operand)
                if upper is not None:
                    told["to"] = _text(upper.operand)
                rank = 2
            case Exists():
                rank = 4
        return _Way(rank, cold=(told,))


def _rank(way: _Way) -> int:
    return way.rank


def _text(operand: Operand) -> str:
    """The value as Postgres reads it."""
    value: Scalar = operand.value
    match operand.data_type:
        case DataType.TIME:
            return us_to_datetime(int(value)).isoformat()
        case DataType.BOOL:
            return "true" if value else "false"
        case DataType.DOUBLE:
            return repr(float(value))
        case _:
            return str(value)
