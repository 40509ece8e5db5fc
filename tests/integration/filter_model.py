"""What filters mean, in plain Python; and random ones over random values of every type."""

import json
from collections.abc import Mapping
from decimal import Decimal
from math import inf, isnan, nan
from typing import Any

from hypothesis import strategies as st

from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType, Scalar
from atlas_query.filters import (
    AllOf,
    AnyOf,
    Bound,
    Equals,
    Exists,
    Filter,
    Not,
    Operand,
    Range,
)
from atlas_query.filters.tree import Leaf

Values = Mapping[str, Scalar]
"""Attribute name -> latest value, of one entity."""

POOLS: dict[DataType, list[Scalar]] = {
    DataType.BOOL: [True, False],
    DataType.INT: [-(2**63), -1, 0, 1, 2, 2**53, 2**53 + 1, 2**63 - 1],
    DataType.DOUBLE: [
        nan, inf, -inf, 0.0, -0.0, 0.1, 0.1 + 2**-56, 1.0, 5e-324, 1e300, -1.5, 2.0**53,
    ],
    DataType.DECIMAL: [
        Decimal(text)
        for text in (
            "0", "1", "1.000000000000000000", "0.000000000000000001", "-0.1", "0.1",
            "99999999999999999999.999999999999999999", "99999999999999999999.999999999999999998",
            "-99999999999999999999.999999999999999999",
        )
    ],
    DataType.TEXT: [
        "", "a", "A", "b", "é", "e\u0301", "\uffff", "\U0001f600", "NaN", 'q"uote', "back\\slash",
        "\x01\n\t", "true", '") || true || ("', "a" * 300,
    ],
    DataType.TIME: [
        0, -1, 1, 1_700_000_000_000_000, 1_700_000_000_000_001, -62_135_596_800_000_000,
    ],
    DataType.JSON: [
        "null", "true", "1", "1.0", '"a"', "[]", "{}", "[1]", "[1, 1]", "[[1]]", '{"a": 1}',
        '{"a": 1.0, "b": null}', '{"a": [1, {"b": "\\ud83d\\ude00"}]}', '[true, "1", 1, null]',
        '{"": {"q\\"": []}}', "1e400",
    ],
}  # fmt: skip

ATTRIBUTES = {
    name: AttributeDef(1000 + number, name, data_type, is_hot=True)
    for number, (name, data_type) in enumerate(
        (f"{data_type}_{copy}", data_type) for data_type in DataType for copy in (1, 2)
    )
}
_ORDERED = [
    name
    for name, attribute in ATTRIBUTES.items()
    if attribute.data_type not in {DataType.BOOL, DataType.JSON}
]


def matches(tree: Filter, values: Values) -> bool:
    """Whether an entity with these values matches."""
    match tree:
        case AllOf(parts):
            return all(matches(part, values) for part in parts)
        case AnyOf(parts):
            return any(matches(part, values) for part in parts)
        case Not(part):
            return not matches(part, values)
        case _:
            return tree.attribute in values and _holds(tree, values[tree.attribute])


def _holds(leaf: Leaf, value: Scalar) -> bool:
    match leaf:
        case Equals(operands=operands):
            return any(_same(operand.data_type, operand.value, value) for operand in operands)
        case Range(lower=lower, upper=upper):
            if isinstance(value, float) and isnan(value):
                return False
            return _above(value, lower) and _below(value, upper)
        case Exists():
            return True


def _above(value: Scalar, bound: Bound | None) -> bool:
    if bound is None:
        return True
    end, own = _order(bound.operand.value), _order(value)
    return bool(own > end or (bound.is_inclusive and own == end))


def _below(value: Scalar, bound: Bound | None) -> bool:
    if bound is None:
        return True
    end, own = _order(bound.operand.value), _order(value)
    return bool(own < end or (bound.is_inclusive and own == end))


def _order(value: Scalar) -> Any:
    return value.encode() if isinstance(value, str) else value


def _same(data_type: DataType, one: Scalar, other: Scalar) -> bool:
    if data_type is DataType.JSON:
        return bool(_canonical(one) == _canonical(other))
    if isinstance(one, float) and isinstance(other, float) and isnan(one):
        return isnan(other)
    return bool(one == other)


def _canonical(document: Scalar) -> Any:
    """Something that is equal for equal documents only: 1 is 1.0, but true is not 1."""
    return _tagged(json.loads(str(document), parse_float=Decimal, parse_int=Decimal))


def _tagged(part: Any) -> Any:
    match part:
        case dict():
            return ("object", {key: _tagged(member) for key, member in part.items()})
        case list():
            return ("array", [_tagged(item) for item in part])
        case _:
            return (type(part).__name__, part)


def values() -> st.SearchStrategy[dict[str, Scalar]]:
    """The values of one entity; attributes may be missing."""
    pools = {
        name: st.sampled_from(POOLS[attribute.data_type]) for name, attribute in ATTRIBUTES.items()
    }
    return st.fixed_dictionaries({}, optional=pools)


def filters() -> st.SearchStrategy[Filter]:
    """Filters that are valid, of any shape."""
    leaf = st.one_of(_equals(), _ranges(), st.sampled_from(sorted(ATTRIBUTES)).map(_exists))
    return st.recursive(leaf, _grown, max_leaves=8)


def _grown(part: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    parts = st.lists(part, min_size=1, max_size=4).map(tuple)
    return st.one_of(
        part.map(Not), st.lists(part, max_size=4).map(tuple).map(AllOf), parts.map(AnyOf)
    )


def _exists(name: str) -> Filter:
    return Exists(name, "filter.exists")


def _operand(name: str, value: Scalar) -> Operand:
    return Operand(ATTRIBUTES[name].data_type, value, "filter.value")


@st.composite
def _equals(draw: st.DrawFn) -> Filter:
    name = draw(st.sampled_from(sorted(ATTRIBUTES)))
    pool = st.sampled_from(POOLS[ATTRIBUTES[name].data_type])
    chosen = draw(st.lists(pool, min_size=1, max_size=3))
    return Equals(name, tuple(_operand(name, value) for value in chosen), "filter.equals")


@st.composite
def _ranges(draw: st.DrawFn) -> Filter:
    name = draw(st.sampled_from(_ORDERED))
    pool = [value for value in POOLS[ATTRIBUTES[name].data_type] if value == value]  # No NaN.
    ends = sorted(draw(st.lists(st.sampled_from(pool), min_size=2, max_size=2)), key=_order)
    inclusive = draw(st.tuples(st.booleans(), st.booleans()))
    if ends[0] == ends[1]:
        inclusive = (True, True)
    lower, upper = (
        Bound(_operand(name, end), is_inclusive)
        for end, is_inclusive in zip(ends, inclusive, strict=True)
    )
    sides = draw(st.sampled_from(("both", "lower", "upper")))
    return Range(
        name,
        None if sides == "upper" else lower,
        None if sides == "lower" else upper,
        "filter.range",
    )
