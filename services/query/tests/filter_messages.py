"""Filters as messages."""

from typing import Any

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import value_pb2


def equals(attribute: str, **value: Any) -> pb.Filter:
    return pb.Filter(equals=pb.Equals(attribute=attribute, value=value_pb2.Value(**value)))


def one_of(attribute: str, *values: int) -> pb.Filter:
    message = pb.Filter()
    # By name: the field has that of a keyword.
    part = getattr(message, "in")
    part.attribute = attribute
    part.values.extend(value_pb2.Value(int_value=value) for value in values)
    return message


def negated(part: pb.Filter) -> pb.Filter:
    message = pb.Filter()
    getattr(message, "not").CopyFrom(part)
    return message


def all_of(*parts: pb.Filter) -> pb.Filter:
    return pb.Filter(all_of=pb.AllOf(filters=parts))


def any_of(*parts: pb.Filter) -> pb.Filter:
    return pb.Filter(any_of=pb.AnyOf(filters=parts))
