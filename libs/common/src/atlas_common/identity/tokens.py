"""Signed tokens (JWT, RFC 7519 and 8725) as identities."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import jwt
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAlgorithmError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWTError,
)

from atlas_common import errors
from atlas_common.caller import PLATFORM_INTERNAL, SCOPES, Caller, CallerKind
from atlas_common.config import JwtConfig
from atlas_common.errors import ServiceError
from atlas_common.identity.key_source import KeySource
from atlas_common.identity.keys import KeySet
from atlas_common.tenant import check_tenant_key

TOKEN_BYTES_MAX = 8192
SUBJECT_CHARS_MAX = 256
_REQUIRED = ["exp", "iss", "aud", "sub"]
# Services prove themselves by certificates; a token can be asked for by anybody with a browser.
_GRANTABLE = SCOPES - {PLATFORM_INTERNAL}


class TokenVerifier:
    """Tells of a token whose it is.

    A token that was verified is remembered, by its very bytes, until it ends or the keys change:
    what one call costs is a look into a dictionary, not a signature.
    """

    def __init__(
        self,
        config: JwtConfig,
        keys: KeySource,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: seconds since 1970, as tokens have them."""
        self._config = config
        self._algorithms = list(config.algorithms)
        self._keys = keys
        self._clock = clock
        self._verified: OrderedDict[str, Caller] = OrderedDict()
        self._verified_with: KeySet | None = None

    async def verify(self, token: str) -> Caller:
        """The token's owner.

        Raises ServiceError UNAUTHENTICATED / CREDENTIALS_INVALID or CREDENTIALS_EXPIRED, and
        UNAVAILABLE / DEPENDENCY_UNAVAILABLE while no keys are known. No message repeats the token.
        """
        keys = self._keys.current()
        if keys is not self._verified_with:  # What a withdrawn key signed is worth nothing.
            self._verified.clear()
            self._verified_with = keys
        known = self._verified.get(token)
        if known is not None and known.ends_at is not None and self._clock() < known.ends_at:
            self._verified.move_to_end(token)
            return known
        claims = await self._claims(token, keys)
        caller = self._caller(claims)
        self._remember(token, caller)
        return caller

    def _remember(self, token: str, caller: Caller) -> None:
        if self._keys.current() is not self._verified_with:
            return  # Renewed for this very token: the next call begins a new memory.
        self._verified[token] = caller
        self._verified.move_to_end(token)
        if len(self._verified) > self._config.remembered_tokens_max:
            self._verified.popitem(last=False)

    async def _claims(self, token: str, keys: KeySet) -> Mapping[str, Any]:
        if len(token) > TOKEN_BYTES_MAX:
            raise _invalid(f"the token is longer than {TOKEN_BYTES_MAX} bytes")
        header = _header(token)
        if header.get("alg") not in self._algorithms:
            raise _invalid(f"the token's algorithm is none of {', '.join(self._algorithms)}")
        if "crit" in header:
            raise _invalid("the token asks for an extension that is not understood")
        key_id = header.get("kid")
        if key_id is not None and not isinstance(key_id, str):
            raise _invalid("the token's kid is no text")
        key = keys.find(key_id)
        if key is None:
            key = (await self._keys.renewed()).find(key_id)
        if key is None:
            raise _invalid("the token is signed with a key that is not known")
        try:
            return jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                audience=self._config.audience,
                issuer=self._config.issuer,
                leeway=self._config.leeway_seconds,
                options={"require": _REQUIRED},
            )
        except (PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise _refused(error) from None

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_CHARS_MAX:
            raise _invalid("the token's sub is no name")
        return Caller(
            subject=subject,
            kind=CallerKind.USER,
            scopes=frozenset(self._scopes(claims)) & _GRANTABLE,
            tenant=self._tenant(claims),
            ends_at=float(claims["exp"]) + self._config.leeway_seconds,
        )

    def _scopes(self, claims: Mapping[str, Any]) -> list[str]:
        claimed = claims.get(self._config.scope_claim, [])
        if isinstance(claimed, str):
            return claimed.split()
        if isinstance(claimed, list) and all(isinstance(scope, str) for scope in claimed):
            return claimed
        raise _invalid(f"the token's {self._config.scope_claim} is neither text nor a list of it")

    def _tenant(self, claims: Mapping[str, Any]) -> str | None:
        claimed = claims.get(self._config.tenant_claim)
        if claimed is None:
            return None
        try:
            if isinstance(claimed, str):
                return check_tenant_key(claimed)
        except ServiceError:
            pass
        raise _invalid(f"the token's {self._config.tenant_claim} is no tenant's key")


def _header(token: str) -> Mapping[str, Any]:
    try:
        return jwt.get_unverified_header(token)
    except (PyJWTError, ValueError, TypeError):
        raise _invalid("the token is malformed") from None


_PROBLEMS: tuple[tuple[type[Exception], str], ...] = (
    (ImmatureSignatureError, "the token is not valid yet"),
    (InvalidAudienceError, "the token is for another audience"),
    (InvalidIssuerError, "the token is of another issuer"),
    (InvalidAlgorithmError, "the token's algorithm is not its key's"),
    (InvalidSignatureError, "the token's signature is wrong"),
)


def _refused(error: Exception) -> ServiceError:
    if isinstance(error, ExpiredSignatureError):
        return errors.unauthenticated("CREDENTIALS_EXPIRED", "the token has ended")
    if isinstance(error, MissingRequiredClaimError):
        return _invalid(f"the token lacks the claim {error.claim}")
    for kind, problem in _PROBLEMS:
        if isinstance(error, kind):
            return _invalid(problem)
    return _invalid("the token is malformed")


def _invalid(message: str) -> ServiceError:
    return errors.unauthenticated("CREDENTIALS_INVALID", message)
