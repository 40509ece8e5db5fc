"""Conditions for find_entities(): what the attributes of an entity must be.

status, tier = attribute("status"), attribute("tier")
(status == "on") & (tier >= 3) | ~attribute("serial").exists()
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from atlas.query.v1 import query_service_pb2 as pb
from atlas_client.values import Value, to_proto

_Leaf = Literal["all_of", "any_of"]


class Where:
    """A condition. Put together with & (and), | (or) and ~ (not); has no truth of its own."""

    __slots__ = ("_message",)

    def __init__(self, message: pb.Filter) -> None:
        self._message = message

    def to_proto(self) -> pb.Filter:
        """Return the message; do not change it."""
        return self._message

    def __and__(self, other: "Where") -> "Where":
        return all_of((self, other))

    def __or__(self, other: "Where") -> "Where":
        return any_of((self, other))

    def __invert__(self) -> "Where":
        message = pb.Filter()
        # By name: the field has that of a keyword.
        getattr(message, "not").CopyFrom(self._message)
        return Where(message)

    def __bool__(self) -> bool:
        raise TypeError("a condition is not true or false by itself: use & for and, | for or, ~")

    def __repr__(self) -> str:
        return f"Where({self._message})"


class AttributeRef:
    """An attribute to compare: see attribute()."""

    __slots__ = ("name",)
    __hash__ = None  # type: ignore[assignment]  # == makes a condition.

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, value: Any) -> Where:  # type: ignore[override]
        return self.equals(value)

    def __ne__(self, value: Any) -> Where:  # type: ignore[override]
        return ~self.equals(value)

    def __lt__(self, value: Value) -> Where:
        return self._range(max_exclusive=value)

    def __le__(self, value: Value) -> Where:
        return self._range(max=value)

    def __gt__(self, value: Value) -> Where:
        return self._range(min_exclusive=value)

    def __ge__(self, value: Value) -> Where:
        return self._range(min=value)

    def equals(self, value: Value) -> Where:
        """Equal to a value, as ==."""
        return Where(pb.Filter(equals=pb.Equals(attribute=self.name, value=to_proto(value))))

    def between(self, low: Value, high: Value) -> Where:
        """Both ends belong to the range."""
        return self._range(min=low, max=high)

    def one_of(self, values: Iterable[Value]) -> Where:
        """Equal to one of at most 256 values."""
        message = pb.Filter()
        # By name: the field has that of a keyword.
        part = getattr(message, "in")
        part.attribute = self.name
        part.values.extend(to_proto(value) for value in values)
        return Where(message)

    def exists(self) -> Where:
        """Has a value, whichever."""
        return Where(pb.Filter(exists=pb.Exists(attribute=self.name)))

    def _range(self, **ends: Value) -> Where:
        message = pb.Filter(range=pb.Range(attribute=self.name))
        for end, value in ends.items():
            getattr(message.range, end).CopyFrom(to_proto(value))
        return Where(message)


def attribute(name: str) -> AttributeRef:
    """Name an attribute, to compare it: ==, !=, <, <=, >, >=, between(), one_of(), exists().

    Values must be of the attribute's type: 1.0 for a DOUBLE, not 1. An entity without a value of
    the attribute meets no comparison, and so meets != and ~ of every one.
    """
    return AttributeRef(name)


def all_of(conditions: Iterable[Where]) -> Where:
    """Put conditions together that must all hold; at most 32."""
    return Where(_together("all_of", conditions))


def any_of(conditions: Iterable[Where]) -> Where:
    """Put conditions together of which one must hold; 1 to 32."""
    return Where(_together("any_of", conditions))


def filter_message(where: Where | Mapping[str, Value]) -> pb.Filter:
    """Return the message of a condition, or of equalities that must all hold."""
    if isinstance(where, Where):
        return where.to_proto()
    equalities = [attribute(name).equals(value) for name, value in where.items()]
    return equalities[0].to_proto() if len(equalities) == 1 else all_of(equalities).to_proto()


def _together(node: _Leaf, conditions: Iterable[Where]) -> pb.Filter:
    message = pb.Filter()
    group = getattr(message, node)
    group.SetInParent()
    for condition in conditions:
        part = condition.to_proto()
        # a & b & c is one level of three, not two of two: depth is bounded.
        same = part.WhichOneof("node") == node
        group.filters.extend(getattr(part, node).filters if same else [part])
    return message
