"""From a call to who makes it."""

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

from atlas_common import errors
from atlas_common.background import Work
from atlas_common.bounded_http import is_private
from atlas_common.caller import SCOPES, Caller, CallerKind
from atlas_common.config import IdentityConfig, JwtConfig, RpcConfig, ServiceConfig
from atlas_common.errors import FatalError, ServiceError
from atlas_common.identity.key_source import KeySource
from atlas_common.identity.peers import Peers, has_certificate
from atlas_common.identity.tokens import TokenVerifier
from atlas_common.rpc.readiness import Check
from atlas_common.rpc.scope import Call
from atlas_common.telemetry.logs import logger

AUTHORIZATION_KEY = "authorization"
_SCHEME = "bearer "
_log = logger(__name__)


class Authenticator(Protocol):
    """Verifies who calls."""

    async def authenticate(self, call: Call) -> Caller:
        """Who makes the call. Raises ServiceError UNAUTHENTICATED, UNAVAILABLE."""
        ...

    @property
    def background(self) -> Mapping[str, Work]:
        """What has to run meanwhile."""
        ...

    @property
    def readiness(self) -> Mapping[str, Check]:
        """What has to be there for it."""
        ...


class Insecure:
    """Believes everybody everything. For development alone: refuses to exist anywhere else."""

    def __init__(self, environment: str) -> None:
        if environment != "dev":
            raise FatalError(
                f"ATLAS_IDENTITY__MODE=insecure is refused in environment {environment!r}:"
                " anybody could read and change everything; set up tokens or client certificates"
            )
        _log.warning(
            "INSECURE: callers are not verified, anybody may do everything to every tenant",
            mode="insecure",
            environment=environment,
        )
        self._anybody = Caller(subject="anybody", kind=CallerKind.ANYBODY, scopes=SCOPES)
        self.background: Mapping[str, Work] = {}
        self.readiness: Mapping[str, Check] = {}

    async def authenticate(self, call: Call) -> Caller:  # noqa: ARG002
        """Anybody."""
        return self._anybody


class Verified:
    """Believes signed tokens, and certificates of known peers.

    A token counts before a certificate: a gateway that hands its caller's token on does not lend
    that caller rights of its own.
    """

    def __init__(self, tokens: TokenVerifier | None, peers: Peers, keys: KeySource | None) -> None:
        self._tokens = tokens
        self._peers = peers
        self.background: Mapping[str, Work] = {} if keys is None else {"token keys": keys.run}
        self.readiness: Mapping[str, Check] = {} if keys is None else {"token keys": keys.check}

    async def authenticate(self, call: Call) -> Caller:
        """As Authenticator; CREDENTIALS_MISSING, CREDENTIALS_INVALID, CREDENTIALS_EXPIRED."""
        token = _bearer(call)
        if token is not None:
            if self._tokens is None:
                raise errors.unauthenticated(
                    "CREDENTIALS_INVALID", "this service takes client certificates, not tokens"
                )
            return await self._tokens.verify(token)
        context = call.context.auth_context()
        if not has_certificate(context):
            raise errors.unauthenticated("CREDENTIALS_MISSING", self._missing())
        peer = self._peers.find(context)
        if peer is None:
            raise errors.unauthenticated(
                "CREDENTIALS_INVALID", "no name in the client certificate is known here"
            )
        return peer

    def _missing(self) -> str:
        if self._tokens is None:
            return "the call comes without a client certificate"
        return f"the call brings no token: {AUTHORIZATION_KEY}: Bearer ..."


def authenticator(config: ServiceConfig) -> Authenticator:
    """The authenticator that the settings ask for.

    Raises FatalError if they ask for none, or for one that is not safe in this environment.
    """
    identity = config.identity
    if identity.mode == "insecure":
        return Insecure(config.environment)
    _check_anybody_can_call(identity, config.rpc)
    keys, tokens = None, None
    if identity.jwt is not None:
        _check_address(identity.jwt, config.environment)
        if config.rpc.tls is None:
            _log.warning("tokens are taken over connections in the clear: TLS has to end before us")
        keys = KeySource.of(identity.jwt)
        tokens = TokenVerifier(identity.jwt, keys)
    return Verified(tokens, Peers(identity.peers), keys)


def _check_anybody_can_call(identity: IdentityConfig, rpc: RpcConfig) -> None:
    has_authorities = rpc.tls is not None and rpc.tls.client_ca_file is not None
    if identity.peers and not has_authorities:
        raise FatalError(
            "ATLAS_IDENTITY__PEERS needs client certificates: set ATLAS_RPC__TLS__CLIENT_CA_FILE"
        )
    if identity.jwt is None and not identity.peers:
        raise FatalError(
            "it is not set how callers are verified: set ATLAS_IDENTITY__JWT__JWKS, __ISSUER and"
            " __AUDIENCE for tokens, ATLAS_RPC__TLS__CLIENT_CA_FILE with ATLAS_IDENTITY__PEERS for"
            " client certificates, or, to develop, ATLAS_IDENTITY__MODE=insecure"
        )


def _check_address(config: JwtConfig, environment: str) -> None:
    """Whoever can change the keys on their way can be anybody."""
    if urlsplit(config.jwks).scheme == "http" and not is_private(config.jwks, environment):
        raise FatalError(
            f"ATLAS_IDENTITY__JWT__JWKS: http is refused in environment {environment!r}: use https"
        )


def _bearer(call: Call) -> str | None:
    """The token of the call; None if it has none. Raises ServiceError CREDENTIALS_INVALID."""
    found = [value for key, value in call.metadata if key == AUTHORIZATION_KEY]
    if not found:
        return None
    value = found[0]
    if len(found) > 1 or not isinstance(value, str) or value[:7].lower() != _SCHEME:
        raise _not_one_token()
    return value[7:].strip()


def _not_one_token() -> ServiceError:
    return errors.unauthenticated(
        "CREDENTIALS_INVALID", f"{AUTHORIZATION_KEY} has to be one token: Bearer ..."
    )
