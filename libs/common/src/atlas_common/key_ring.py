"""The keys that freshness tokens and page tokens are sealed with."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

KEY_BYTES_MIN = 16
KEY_IDS = range(1, 256)
RING_FORM = '{"keys": {"<key id 1..255>": "<base64 of at least 16 bytes>"}, "active_key": <key id>}'


@dataclass(frozen=True, eq=False)
class KeyRing:
    """Keys by id: the active one seals, all open. Raises ValueError, which tells no key."""

    keys: Mapping[int, bytes] = field(repr=False)
    active: int

    def __post_init__(self) -> None:
        if self.active not in self.keys:
            raise ValueError(
                f"the active key {self.active} is not among the keys {sorted(self.keys)}"
            )
        for key_id, key in self.keys.items():
            if key_id not in KEY_IDS or len(key) < KEY_BYTES_MIN:
                raise ValueError(f"key {key_id}: ids are 1..255, keys >= {KEY_BYTES_MIN} bytes")
        object.__setattr__(self, "keys", MappingProxyType(dict(self.keys)))

    @classmethod
    def of_base64(cls, keys: Mapping[int, str], active: int) -> "KeyRing":
        """With the keys as text. Raises ValueError."""
        return cls({key_id: _bytes(key_id, key) for key_id, key in keys.items()}, active)

    @classmethod
    def parse(cls, text: str) -> "KeyRing":
        """A ring as RING_FORM has it. Raises ValueError."""
        try:
            ring: Any = json.loads(text)
            keys = {int(key_id): key for key_id, key in ring["keys"].items()}
            active = int(ring["active_key"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"not a ring of keys: {RING_FORM}") from None
        return cls.of_base64(keys, active)

    def __str__(self) -> str:
        return f"keys {', '.join(map(str, sorted(self.keys)))}, sealing with {self.active}"


def _bytes(key_id: int, key: object) -> bytes:
    if not isinstance(key, str):
        raise ValueError(f"key {key_id} is no text")  # noqa: TRY004 - of a document, not of a call.
    try:
        return base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"key {key_id} is not base64") from None
