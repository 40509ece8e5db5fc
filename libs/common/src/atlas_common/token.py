"""Seals and opens freshness tokens and page tokens."""

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from atlas.type.freshness import (
    MAC_BYTES,
    VERSION,
    FreshnessToken,
    MalformedTokenError,
    Position,
    Segment,
    merge,
    merge_segments,
)
from atlas_common import errors
from atlas_common.config import TokenConfig
from atlas_common.errors import ServiceError
from atlas_common.key_ring import KeyRing
from atlas_common.secrets import newest_ring

__all__ = ["MalformedTokenError", "Position", "TokenSigner", "merge"]

_SEALED = struct.Struct(">BIBHQQ")
_PAGE_HEADER = struct.Struct(">BB")
_PAGE_TOKEN_CHARS_MAX = 1024
_SEGMENTS_MAX = 1024
_PAGE_DOMAIN = b"atlas page token"


class TokenSigner:
    """Holds the keys. Seals with the active one, opens with any: so keys rotate without a break."""

    def __init__(self, keys: Mapping[int, bytes], active: int) -> None:
        """With these keys for good. Raises ValueError."""
        ring = KeyRing(keys, active)
        self._newest: Callable[[], KeyRing] = lambda: ring
        self._settled: TokenSigner | None = None
        # All calls of a flush that are of one tenant get the same, as do all that get one answer.
        self._segment = lru_cache(_SEGMENTS_MAX)(_sealed)
        self._token = lru_cache(_SEGMENTS_MAX)(self._put_together)

    @classmethod
    def following(cls, newest: Callable[[], KeyRing]) -> "TokenSigner":
        """A signer that asks for its keys at each token."""
        signer = cls(newest().keys, newest().active)
        signer._newest = newest
        return signer

    @classmethod
    def from_config(cls, config: TokenConfig) -> "TokenSigner":
        """A signer with the configured keys, or with those that their source has from now on."""
        if config.keys_source is not None:
            return cls.following(newest_ring(config.keys_source))
        ring = config.ring()
        return cls(ring.keys, ring.active)

    def settled(self) -> "TokenSigner":
        """A signer with the keys of this moment for good; the same one while they are the same.

        Whoever keeps tokens, or what was in them, keeps it by this.
        """
        ring = self._newest()
        if self._settled is None or self._settled._newest() is not ring:
            self._settled = TokenSigner.following(lambda: ring)
        return self._settled

    def seal(self, tenant_id: int, positions: Iterable[Position]) -> bytes:
        """The token that asks for these positions; of two in one lane, for the greater."""
        return self._token(self._newest(), tenant_id, tuple(positions))

    def open(self, token: bytes, tenant_id: int) -> tuple[Position, ...]:
        """The positions the token asks for, sorted by lane; b"" asks for none.

        Raises ServiceError INVALID_ARGUMENT: TOKEN_MALFORMED, TOKEN_WRONG_TENANT, TOKEN_TAMPERED.
        """
        if not token:
            return ()
        try:
            parsed = FreshnessToken.decode(token)
        except MalformedTokenError as error:
            raise _refused("TOKEN_MALFORMED", str(error)) from None
        if parsed.tenant_id != tenant_id:
            raise _refused("TOKEN_WRONG_TENANT", "a freshness token of another tenant")
        ring = self._newest()
        for segment in parsed.segments:
            if segment.key_id not in ring.keys:
                raise _refused(
                    "TOKEN_TAMPERED",
                    f"a freshness token of key {segment.key_id}, which is not in use here (any"
                    " more): read without it, or STRONG",
                )
            mac = _mac(ring, segment.key_id, tenant_id, segment.position)
            if not hmac.compare_digest(mac, segment.mac):
                raise _refused("TOKEN_TAMPERED", "a freshness token that was not sealed here")
        return parsed.positions

    def seal_page(self, tenant_id: int, query: bytes, cursor: bytes) -> str:
        """A page token for this query's next page, holding `cursor`, which its holder can read."""
        ring = self._newest()
        head = _PAGE_HEADER.pack(VERSION, ring.active)
        mac = _page_mac(ring, ring.active, tenant_id, query, cursor)
        return base64.urlsafe_b64encode(head + mac + cursor).rstrip(b"=").decode()

    def open_page(self, token: str, tenant_id: int, query: bytes) -> bytes:
        """The cursor in a page token of this tenant and query; b"" for "".

        Raises ServiceError INVALID_ARGUMENT / PAGE_TOKEN_INVALID.
        """
        if not token:
            return b""
        sealed = _page_bytes(token)
        head, rest = sealed[: _PAGE_HEADER.size], sealed[_PAGE_HEADER.size :]
        mac, cursor = rest[:MAC_BYTES], rest[MAC_BYTES:]
        if len(mac) < MAC_BYTES:
            raise _page_refused()
        version, key_id = _PAGE_HEADER.unpack(head)
        if version != VERSION:
            raise _page_refused()
        ring = self._newest()
        if key_id not in ring.keys:
            raise _page_refused(
                f"a page token of key {key_id}, which is not in use here (any more): begin again"
                " with the first page"
            )
        if not hmac.compare_digest(mac, _page_mac(ring, key_id, tenant_id, query, cursor)):
            raise _page_refused()
        return cursor

    def _put_together(
        self, ring: KeyRing, tenant_id: int, positions: tuple[Position, ...]
    ) -> bytes:
        segments = merge_segments(self._segment(ring, tenant_id, each) for each in positions)
        return FreshnessToken(tenant_id, segments).encode()


def _sealed(ring: KeyRing, tenant_id: int, position: Position) -> Segment:
    return Segment(position, ring.active, _mac(ring, ring.active, tenant_id, position))


def _mac(ring: KeyRing, key_id: int, tenant_id: int, position: Position) -> bytes:
    sealed = _SEALED.pack(
        VERSION, tenant_id, key_id, position.lane, position.epoch, position.sequence
    )
    return hmac.digest(ring.keys[key_id], sealed, hashlib.sha256)[:MAC_BYTES]


def _page_mac(ring: KeyRing, key_id: int, tenant_id: int, query: bytes, cursor: bytes) -> bytes:
    # Length-prefixed parts, and a prefix that no freshness segment has: one kind of token can
    # never pass for the other although both use the same keys.
    sealed = b"".join(
        struct.pack(">Q", len(part)) + part
        for part in (_PAGE_DOMAIN, struct.pack(">BI", key_id, tenant_id), query, cursor)
    )
    return hmac.digest(ring.keys[key_id], sealed, hashlib.sha256)[:MAC_BYTES]


def _page_bytes(token: str) -> bytes:
    if len(token) > _PAGE_TOKEN_CHARS_MAX:
        raise _page_refused()
    try:
        sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _page_refused() from None
    # Base64 has spare bits at its end; with only our own form accepted, a token has one form.
    if base64.urlsafe_b64encode(sealed).rstrip(b"=").decode() != token:
        raise _page_refused()
    return sealed


def _refused(reason: str, message: str) -> ServiceError:
    return errors.invalid_argument(reason, message, field="token")


def _page_refused(message: str = "not a page token of this query") -> ServiceError:
    return errors.invalid_argument("PAGE_TOKEN_INVALID", message, field="page_token")
