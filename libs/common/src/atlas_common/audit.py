"""An administrative act, as it is entered into the audit log."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from atlas_common.caller import Caller
from atlas_common.tenant import Tenant

REQUEST_BYTES_MAX = 16_384
_DEPTH_MAX = 8
_ROOM = ((10, 200), (3, 40))
"""Items of a list and characters of a text that are kept; the second where that is too much."""


@dataclass(frozen=True, slots=True)
class Act:
    """A call that changes what is administered, and who makes it."""

    id: uuid.UUID
    caller: Caller
    tenant: Tenant | None
    """Whose call it is; None: no tenant's, the platform's."""
    method: str
    request_id: str
    request: str
    """What is asked for, as `told()`."""


def told(request: object) -> str:
    """The message as JSON in ASCII, at most REQUEST_BYTES_MAX: long lists and texts are shortened.

    "" for what is no message. Its cost does not grow with the length of lists.
    """
    if not isinstance(request, Message):
        return ""
    text = ""
    for items_max, characters_max in _ROOM:
        fields = _Shortener(items_max, characters_max).message(request, 0)
        text = json.dumps(fields, separators=(",", ":"))
        if len(text) <= REQUEST_BYTES_MAX:
            return text
    return json.dumps({"omitted_bytes": len(text)})


@dataclass(frozen=True, slots=True)
class _Shortener:
    items_max: int
    characters_max: int

    def message(self, message: Message, depth: int) -> Any:
        """The fields that are set, by name."""
        if depth > _DEPTH_MAX:
            return "..."
        return {
            field.name: self._field(field, value, depth) for field, value in message.ListFields()
        }

    def _field(self, field: FieldDescriptor, value: Any, depth: int) -> Any:
        if not field.is_repeated:
            return self._value(field, value, depth)
        items: Sequence[Any] = value
        kept = [self._value(field, item, depth) for item in items[: self.items_max]]
        left_out = len(items) - len(kept)
        return [*kept, f"... and {left_out} more"] if left_out else kept

    def _value(self, field: FieldDescriptor, value: Any, depth: int) -> Any:
        if isinstance(value, Message):
            return self.message(value, depth + 1)
        if field.enum_type is not None:
            known = field.enum_type.values_by_number.get(value)
            return value if known is None else known.name
        if isinstance(value, bytes):
            return self._text(value[: self.characters_max + 1].hex())
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        kept = text[: self.characters_max]
        return kept if len(kept) == len(text) else f"{kept}..."
