"""A checked filter as jsonpaths over `entity_jsonb.attrs`; 09_find.sql in db uses them.

Every leaf is an `exists(...)`, which is true or false and never unknown: what cannot be compared,
a number with "NaN" for example, is not selected by a jsonpath filter. So `!` is a plain not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType
from atlas_query.filters.documents import Documents, narrowed
from atlas_query.filters.literals import literal
from atlas_query.filters.ranges import range_predicate
from atlas_query.filters.tree import AllOf, AnyOf, Equals, Exists, Filter, Leaf, Not, Range


@dataclass(frozen=True, slots=True)
class Match:
    """The arguments of the database's find_entities()."""

    condition: str | None
    """The whole filter as a jsonpath predicate; None: narrowing is the whole."""
    narrowing: str | None
    """What follows from the filter and can be looked up in the GIN index; None: nothing."""
    documents: str | None
    """JSON: pairs [attribute id, document]; `$."=n"` in the condition says if the n-th is equal."""
    matches_empty: bool
    """An entity without any hot value matches."""


class Compiled(NamedTuple):
    """A filter, or a part of one; see Match."""

    condition: str | None
    """None: true of every entity."""
    narrowing: str | None
    matches_empty: bool


def compile_filter(tree: Filter, attributes: Mapping[str, AttributeDef]) -> Match:
    """The match of a filter that check_filter() let pass.

    Raises ServiceError INVALID_ARGUMENT for values that no point can have: TEXT_HAS_NUL,
    JSON_INVALID, DECIMAL_INVALID, VALUE_NOT_FINITE.
    """
    documents = Documents()
    compiled = Compiler(attributes, documents).compile(tree)
    condition, narrowing, matches_empty = compiled
    is_narrowed_only = condition == narrowing
    return Match(
        None if is_narrowed_only else condition, narrowing, documents.as_json(), matches_empty
    )


class Compiler:
    """Compiles filters whose documents are numbered together."""

    def __init__(self, attributes: Mapping[str, AttributeDef], documents: Documents) -> None:
        self._attributes = attributes
        self._documents = documents

    def compile(self, tree: Filter, *, is_negated: bool = False) -> Compiled:
        """Negations are pushed down to the leaves, so that what can be looked up under two is."""
        match tree:
            case Not(part):
                return self.compile(part, is_negated=not is_negated)
            case AllOf(parts) | AnyOf(parts):
                compiled = [self.compile(part, is_negated=is_negated) for part in parts]
                is_all = isinstance(tree, AllOf) is not is_negated
                return _all(compiled) if is_all else _any(compiled)
            case _:
                return self._negated(tree) if is_negated else self._leaf(tree)

    def _negated(self, leaf: Leaf) -> Compiled:
        condition, _, _ = self._leaf(leaf)
        return Compiled(f"!({condition})", None, matches_empty=True)

    def _leaf(self, leaf: Leaf) -> Compiled:
        attribute = self._attributes[leaf.attribute]
        path = f'$."{attribute.attribute_id}"'
        match leaf:
            case Exists():
                return Compiled(f"exists({path})", None, matches_empty=False)
            case Range():
                condition = f"exists({path} ? ({range_predicate(leaf)}))"
                return Compiled(condition, None, matches_empty=False)
            case Equals() if attribute.data_type is DataType.JSON:
                return self._document(leaf, attribute.attribute_id)
            case Equals(operands=operands):
                values = dict.fromkeys(literal(operand) for operand in operands)
                is_one = " || ".join(f"@ == {value}" for value in values)
                condition = f"exists({path} ? ({is_one}))"
                return Compiled(condition, condition, matches_empty=False)

    def _document(self, leaf: Equals, attribute_id: int) -> Compiled:
        flags = [self._documents.flag(attribute_id, operand) for operand in leaf.operands]
        narrowings = [narrowed(attribute_id, operand) for operand in leaf.operands]
        return _any([Compiled(*pair, False) for pair in zip(flags, narrowings, strict=True)])


_NOTHING = Compiled('exists($."" ? (@ == 0))', 'exists($."" ? (@ == 0))', matches_empty=False)
"""True of no entity; of the index's form, so that nothing is read to find that out."""


def _all(parts: list[Compiled]) -> Compiled:
    conditions = [part.condition for part in parts if part.condition is not None]
    narrowings = [part.narrowing for part in parts if part.narrowing is not None]
    return Compiled(
        _joined(" && ", conditions) if conditions else None,
        _joined(" && ", narrowings) if narrowings else None,
        all(part.matches_empty for part in parts),
    )


def _any(parts: list[Compiled]) -> Compiled:
    if not parts:
        return _NOTHING
    conditions = [part.condition for part in parts if part.condition is not None]
    narrowings = [part.narrowing for part in parts if part.narrowing is not None]
    is_everything = len(conditions) < len(parts)  # One part is true of every entity.
    return Compiled(
        None if is_everything else _joined(" || ", conditions),
        _joined(" || ", narrowings) if len(narrowings) == len(parts) else None,
        any(part.matches_empty for part in parts),
    )


def _joined(operator: str, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({operator.join(parts)})"
