"""A request's filter as the domain's tree; what it has wrong in itself is refused here."""

from collections.abc import Iterable
from decimal import InvalidOperation

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_common import errors
from atlas_common.limits import check_bytes, check_items, limit
from atlas_common.values import from_proto
from atlas_query.filters import AllOf, AnyOf, Bound, Equals, Exists, Filter, Not, Operand, Range
from atlas_query.filters.tree import EVERY_ENTITY

_LIMITS = limit(pb.FindEntitiesRequest, "filter")


def filter_tree(message: pb.Filter) -> Filter:
    """The tree of a filter; an unset one matches every entity.

    Raises INVALID_ARGUMENT: INVALID_FIELD, BATCH_TOO_LARGE, VALUE_MISSING, DECIMAL_INVALID.
    """
    if message.WhichOneof("node") is None:
        return EVERY_ENTITY
    reader = _Reader()
    tree = reader.read(message, "filter", 1)
    if reader.leaf_count > _LIMITS.max_leaves:
        raise errors.invalid_argument(
            "BATCH_TOO_LARGE",
            f"the filter has {reader.leaf_count} conditions, at most {_LIMITS.max_leaves} fit in"
            " one call, where each value of `in` is one: ask in several calls",
            field="filter",
            leaves=reader.leaf_count,
            leaves_max=_LIMITS.max_leaves,
        )
    return tree


class _Reader:
    def __init__(self) -> None:
        self.leaf_count = 0

    def read(self, message: pb.Filter, path: str, depth: int) -> Filter:
        if depth > _LIMITS.max_depth:
            raise _invalid(
                path, f"the filter is nested deeper than {_LIMITS.max_depth} levels: flatten it"
            )
        match message.WhichOneof("node"):
            case "all_of":
                check_items(message.all_of, "filters", path=f"{path}.all_of.filters")
                return AllOf(self._parts(message.all_of.filters, f"{path}.all_of", depth))
            case "any_of":
                check_items(message.any_of, "filters", path=f"{path}.any_of.filters")
                if not message.any_of.filters:
                    raise _invalid(f"{path}.any_of.filters", "give at least one filter")
                return AnyOf(self._parts(message.any_of.filters, f"{path}.any_of", depth))
            case "not":
                # By name: the field has that of a keyword.
                return Not(self.read(getattr(message, "not"), f"{path}.not", depth + 1))
            case None:
                raise _invalid(path, "this part of the filter is empty: give it a condition")
            case _:
                return self._leaf(message, path)

    def _parts(self, parts: Iterable[pb.Filter], path: str, depth: int) -> tuple[Filter, ...]:
        return tuple(
            self.read(part, f"{path}.filters[{index}]", depth + 1)
            for index, part in enumerate(parts)
        )

    def _leaf(self, message: pb.Filter, path: str) -> Filter:
        self.leaf_count += 1
        match message.WhichOneof("node"):
            case "equals":
                return _equals(message.equals, f"{path}.equals")
            case "in":
                tree = _in(getattr(message, "in"), f"{path}.in")
                self.leaf_count += len(tree.operands) - 1
                return tree
            case "range":
                return _range(message.range, f"{path}.range")
            case _:
                name = _attribute(message.exists.attribute, f"{path}.exists")
                return Exists(name, f"{path}.exists")


def _equals(message: pb.Equals, path: str) -> Equals:
    name = _attribute(message.attribute, path)
    return Equals(name, (_operand(message.value, f"{path}.value"),), path)


def _in(message: pb.In, path: str) -> Equals:
    name = _attribute(message.attribute, path)
    check_items(message, "values", path=f"{path}.values")
    if not message.values:
        raise _invalid(f"{path}.values", "give at least one value")
    operands = (
        _operand(value, f"{path}.values[{index}]") for index, value in enumerate(message.values)
    )
    return Equals(name, tuple(operands), path)


def _range(message: pb.Range, path: str) -> Range:
    name = _attribute(message.attribute, path)
    lower, upper = message.WhichOneof("lower"), message.WhichOneof("upper")
    if lower is None and upper is None:
        raise _invalid(path, "a range needs an end: give min, max, or one that is exclusive")
    return Range(
        name,
        lower and _bound(getattr(message, lower), f"{path}.{lower}", is_inclusive=lower == "min"),
        upper and _bound(getattr(message, upper), f"{path}.{upper}", is_inclusive=upper == "max"),
        path,
    )


def _bound(value: value_pb2.Value, field: str, *, is_inclusive: bool) -> Bound:
    return Bound(_operand(value, field), is_inclusive)


def _attribute(name: str, path: str) -> str:
    if not name:
        raise _invalid(f"{path}.attribute", "name the attribute to compare")
    return name


def _operand(message: value_pb2.Value, field: str) -> Operand:
    try:
        value = from_proto(message)
    except InvalidOperation:
        raise errors.invalid_argument(
            "DECIMAL_INVALID", "the decimal does not parse: write it like 12.5", field=field
        ) from None
    if value is None:
        raise errors.invalid_argument(
            "VALUE_MISSING", "give the value to compare with", field=field
        )
    kind = message.WhichOneof("kind")
    if kind in {"text_value", "json_value"}:
        check_bytes(message, kind, path=field)
    return Operand(*value, field)


def _invalid(field: str, message: str) -> errors.ServiceError:
    return errors.invalid_argument("INVALID_FIELD", message, field=field)
