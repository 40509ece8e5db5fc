"""A filter as a tree. Leaves know the request field that says them, for errors to name it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from atlas_common.values import DataType, Scalar


@dataclass(frozen=True, slots=True)
class Operand:
    """A value to compare with; `field` is the request field that holds it."""

    data_type: DataType
    value: Scalar
    field: str


@dataclass(frozen=True, slots=True)
class Bound:
    """An end of a range."""

    operand: Operand
    is_inclusive: bool


@dataclass(frozen=True, slots=True)
class Equals:
    """The attribute's value is one of the operands, of which there is at least one."""

    attribute: str
    operands: tuple[Operand, ...]
    field: str


@dataclass(frozen=True, slots=True)
class Range:
    """The attribute's value lies between the bounds, of which there is at least one."""

    attribute: str
    lower: Bound | None
    upper: Bound | None
    field: str

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Those there are."""
        return tuple(bound for bound in (self.lower, self.upper) if bound is not None)


@dataclass(frozen=True, slots=True)
class Exists:
    """The attribute has a value."""

    attribute: str
    field: str


@dataclass(frozen=True, slots=True)
class AllOf:
    """Each of the parts matches; of none, every entity."""

    parts: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of the parts matches; there is at least one."""

    parts: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not match."""

    part: "Filter"


Leaf: TypeAlias = Equals | Range | Exists
Filter: TypeAlias = Leaf | AllOf | AnyOf | Not

EVERY_ENTITY = AllOf(())
"""What no filter means."""


def leaves(tree: Filter) -> Iterator[Leaf]:
    """The leaves, in the order of the request."""
    match tree:
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from leaves(part)
        case Not(part):
            yield from leaves(part)
        case _:
            yield tree


def attribute_names(tree: Filter) -> list[str]:
    """The attributes that the filter asks for, each once."""
    return list(dict.fromkeys(leaf.attribute for leaf in leaves(tree)))
