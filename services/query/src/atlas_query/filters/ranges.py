"""A range as a jsonpath predicate over `@`, the attribute's value."""

from math import inf, isinf

from atlas_common.values import DataType
from atlas_query.filters.literals import literal
from atlas_query.filters.tree import Bound, Range

_SIGNS = {(True, True): ">=", (True, False): ">", (False, True): "<=", (False, False): "<"}


def range_predicate(leaf: Range) -> str:
    """What is true of the values in the range; raises what `literal` raises."""
    if leaf.bounds[0].operand.data_type is DataType.DOUBLE:
        return _doubles(leaf)
    return " && ".join(_ends(leaf))


def _ends(leaf: Range) -> list[str]:
    ends = ((True, leaf.lower), (False, leaf.upper))
    return [_end(bound, is_lower=is_lower) for is_lower, bound in ends if bound is not None]


def _end(bound: Bound, *, is_lower: bool) -> str:
    return f"@ {_SIGNS[is_lower, bound.is_inclusive]} {literal(bound.operand)}"


def _doubles(leaf: Range) -> str:
    """The projection holds infinities as strings, which no number compares with: each is named."""
    finite = Range(leaf.attribute, _finite(leaf.lower), _finite(leaf.upper), leaf.field)
    choices = []
    if _has_finite(leaf):
        # Without a finite end every number is in the range, but not NaN, which is a string.
        choices.append(" && ".join(_ends(finite)) or '@.type() == "number"')
    choices += [f'@ == "{name}"' for name, value in _INFINITIES if _contains(leaf, value)]
    return " || ".join(f"({choice})" for choice in choices) or "1 == 0"


_INFINITIES = (("Infinity", inf), ("-Infinity", -inf))


def _finite(bound: Bound | None) -> Bound | None:
    return None if bound is None or isinf(_value(bound)) else bound


def _has_finite(leaf: Range) -> bool:
    return not (
        (leaf.lower is not None and _value(leaf.lower) == inf)
        or (leaf.upper is not None and _value(leaf.upper) == -inf)
    )


def _contains(leaf: Range, value: float) -> bool:
    return (
        leaf.lower is None
        or _value(leaf.lower) < value
        or (leaf.lower.is_inclusive and _value(leaf.lower) == value)
    ) and (
        leaf.upper is None
        or value < _value(leaf.upper)
        or (leaf.upper.is_inclusive and _value(leaf.upper) == value)
    )


def _value(bound: Bound) -> float:
    return float(bound.operand.value)
