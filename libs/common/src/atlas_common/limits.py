"""The bounds that the contracts state as `(atlas.type.v1.limits)`, enforced from the schema."""

from functools import cache

from google.protobuf.message import Message

from atlas.type.v1 import limits_pb2
from atlas_common import errors


def limit(message_type: type[Message], field: str) -> limits_pb2.Limits:
    """The limits of a field as the schema states them; KeyError for a field that does not exist."""
    # Types can be hashed, whatever mypy makes of those of messages.
    return _limit(message_type, field)  # type: ignore[arg-type]


@cache
def _limit(message_type: type[Message], field: str) -> limits_pb2.Limits:
    options = message_type.DESCRIPTOR.fields_by_name[field].GetOptions()
    return options.Extensions[limits_pb2.limits]


def check_items(message: Message, field: str, *, path: str = "") -> None:
    """Refuse a repeated field with more items than its max_items (BATCH_TOO_LARGE).

    `path` is how the caller sees the field, where the message is a part of a request.
    """
    items_max = limit(type(message), field).max_items
    count = len(getattr(message, field))
    if count > items_max:
        raise errors.invalid_argument(
            "BATCH_TOO_LARGE",
            f"{field} has {count} items, at most {items_max} fit in one call: split it",
            field=path or field,
            items=count,
            items_max=items_max,
        )


def check_bytes(message: Message, field: str, *, required: bool = False, path: str = "") -> None:
    """Refuse a string or bytes field longer than max_bytes, or empty where it is required.

    `path` is as in check_items().
    """
    bounds = limit(type(message), field)
    value = getattr(message, field)
    size = len(value.encode()) if isinstance(value, str) else len(value)
    if bounds.max_bytes and size > bounds.max_bytes:
        raise errors.invalid_argument(
            "INVALID_FIELD",
            f"{field} has {size} bytes, at most {bounds.max_bytes} are allowed",
            field=path or field,
            bytes=size,
            bytes_max=bounds.max_bytes,
        )
    if required and size == 0:
        raise errors.invalid_argument(
            "INVALID_FIELD", f"{field} is empty, give one", field=path or field
        )
