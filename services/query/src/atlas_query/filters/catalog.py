"""A filter against the catalog: attributes that exist, can be asked, and have the values' type."""

from collections.abc import Mapping
from math import isnan
from typing import Any

from atlas_common import errors
from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType
from atlas_query.filters.tree import Bound, Equals, Exists, Filter, Leaf, Operand, Range, leaves

_UNORDERED = {DataType.BOOL, DataType.JSON}


def check_filter(tree: Filter, attributes: Mapping[str, AttributeDef]) -> None:
    """Refuse what no entity can be asked. `attributes` has those that exist, by name.

    Raises ServiceError INVALID_ARGUMENT: ATTRIBUTE_UNKNOWN, ATTRIBUTE_NOT_HOT, TYPE_MISMATCH,
    VALUE_NOT_FINITE (a NaN as an end of a range), INVALID_FIELD (an empty range).
    """
    for leaf in leaves(tree):
        attribute = _asked(leaf, attributes)
        match leaf:
            case Equals(operands=operands):
                for operand in operands:
                    _check_type(operand, attribute)
            case Range():
                _check_range(leaf, attribute)
            case Exists():
                pass


def unknown_attribute(name: str, field: str) -> errors.ServiceError:
    """The error of a name that no attribute of the tenant has."""
    return errors.invalid_argument(
        "ATTRIBUTE_UNKNOWN", f"there is no attribute {name!r}", field=field, attribute=name
    )


def _asked(leaf: Leaf, attributes: Mapping[str, AttributeDef]) -> AttributeDef:
    attribute = attributes.get(leaf.attribute)
    if attribute is None:
        raise unknown_attribute(leaf.attribute, f"{leaf.field}.attribute")
    if not attribute.is_hot and not attribute.is_indexed:
        raise errors.invalid_argument(
            "ATTRIBUTE_NOT_HOT",
            f"attribute {attribute.name!r} is cold and has no index, filters are over attributes"
            " that are hot or indexed: promote it (PromoteAttribute) or index it (IndexAttribute),"
            " or filter by another one",
            field=f"{leaf.field}.attribute",
            attribute=attribute.name,
        )
    return attribute


def _check_type(operand: Operand, attribute: AttributeDef) -> None:
    if operand.data_type is attribute.data_type:
        return
    raise errors.invalid_argument(
        "TYPE_MISMATCH",
        f"attribute {attribute.name!r} is {attribute.data_type.upper()},"
        f" the value is {operand.data_type.upper()}",
        field=operand.field,
        attribute=attribute.name,
        attribute_type=attribute.data_type.value,
        value_type=operand.data_type.value,
    )


def _check_range(leaf: Range, attribute: AttributeDef) -> None:
    if attribute.data_type in _UNORDERED:
        raise errors.invalid_argument(
            "TYPE_MISMATCH",
            f"attribute {attribute.name!r} is {attribute.data_type.upper()}, which has no order:"
            " ask with equals or in",
            field=f"{leaf.field}.attribute",
            attribute=attribute.name,
            attribute_type=attribute.data_type.value,
        )
    for bound in leaf.bounds:
        _check_type(bound.operand, attribute)
        if isinstance(bound.operand.value, float) and isnan(bound.operand.value):
            raise errors.invalid_argument(
                "VALUE_NOT_FINITE",
                "NaN is no end of a range, it has no place in the order: ask for it with equals",
                field=bound.operand.field,
            )
    if leaf.lower is not None and leaf.upper is not None and _is_empty(leaf.lower, leaf.upper):
        raise errors.invalid_argument(
            "INVALID_FIELD",
            "the range is empty: its lower end is above its upper end, or both are one value that"
            " is not included",
            field=leaf.field,
            attribute=attribute.name,
        )


def _is_empty(lower: Bound, upper: Bound) -> bool:
    low, high = _order(lower.operand), _order(upper.operand)
    return low > high or (low == high and not (lower.is_inclusive and upper.is_inclusive))


def _order(operand: Operand) -> Any:
    """What compares as the database does: texts by their bytes."""
    return operand.value.encode() if isinstance(operand.value, str) else operand.value
