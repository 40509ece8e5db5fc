"""The keys that tokens are verified with."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.exceptions import PyJWTError

KEYS_MAX = 64
_RSA_BITS_MIN = 2048


class KeySet:
    """A JSON Web Key Set (RFC 7517): its public signature keys by key id."""

    def __init__(self, keys: Mapping[str, PyJWK]) -> None:
        self._keys = MappingProxyType(dict(keys))

    @classmethod
    def parse(cls, document: bytes, algorithms: frozenset[str]) -> "KeySet":
        """Read the keys of these algorithms; others are left out, as are symmetric and short ones.

        Raises ValueError when it is no key set, or one without a key to verify anything with.
        """
        try:
            entries = json.loads(document)["keys"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError('not a JSON Web Key Set: {"keys": [...]}') from None
        if not isinstance(entries, list) or len(entries) > KEYS_MAX:
            raise ValueError(f"not a JSON Web Key Set of at most {KEYS_MAX} keys")
        keys: dict[str, PyJWK] = {}
        for entry in entries:
            key = _usable(entry, algorithms)
            if key is not None:
                keys[str(entry.get("kid", ""))] = key
        if not keys:
            raise ValueError(f"the key set holds no public key for {', '.join(sorted(algorithms))}")
        return cls(keys)

    def find(self, key_id: str | None) -> PyJWK | None:
        """The key of this id; the only one there is for a token that names none."""
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys, for the log."""
        return tuple(sorted(self._keys))


def _usable(entry: Any, algorithms: frozenset[str]) -> PyJWK | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    if entry.get("kty") == "oct":  # A secret that both sides share signs as well as it verifies.
        return None
    # Private parts have no business here: what is public of the key does.
    public = {name: value for name, value in entry.items() if name not in _PRIVATE}
    try:
        key = PyJWK(public)
    except (PyJWTError, ValueError, TypeError):
        return None
    if key.algorithm_name not in algorithms:
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _RSA_BITS_MIN:
        return None
    return key


_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
