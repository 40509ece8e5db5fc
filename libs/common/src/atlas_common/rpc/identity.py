"""The scope that finds out whose call it is."""

from collections.abc import Sequence
from typing import Any, Protocol

from atlas_common import errors
from atlas_common.errors import FatalError
from atlas_common.rpc.scope import Call, Proceed
from atlas_common.telemetry.logs import logger
from atlas_common.tenant import Tenant, tenant_context

TENANT_KEY = "x-atlas-tenant"
_log = logger(__name__)

Metadata = Sequence[tuple[str, str | bytes]]


class Authenticator(Protocol):
    """Verifies who calls. The seam for mTLS or signed tokens."""

    async def authenticate(self, metadata: Metadata) -> str:
        """The key of the caller's tenant. Raises ServiceError UNAUTHENTICATED."""
        ...


class TenantResolver(Protocol):
    """Knows the tenants."""

    async def resolve(self, key: str) -> Tenant:
        """The tenant of this key. Raises ServiceError NOT_FOUND / TENANT_UNKNOWN."""
        ...


class DevAuthenticator:
    """Believes whoever names a tenant. For development alone: refuses to exist anywhere else."""

    def __init__(self, environment: str) -> None:
        if environment != "dev":
            raise FatalError(
                f"the authenticator that trusts {TENANT_KEY} is refused in environment"
                f" {environment!r}: set ATLAS_ENVIRONMENT=dev or configure a verifying one"
            )
        _log.warning("callers are believed to be who they say: development only", header=TENANT_KEY)

    async def authenticate(self, metadata: Metadata) -> str:
        """The value of x-atlas-tenant."""
        named = {value for key, value in metadata if key == TENANT_KEY}
        if not named or named == {""}:
            raise errors.unauthenticated(
                "TENANT_MISSING", f"the call names no tenant in {TENANT_KEY}", field=TENANT_KEY
            )
        if len(named) > 1:
            raise errors.unauthenticated(
                "TENANT_MISSING", "the call names several tenants", field=TENANT_KEY
            )
        (key,) = named
        return key if isinstance(key, str) else ""


def authenticator(environment: str) -> Authenticator:
    """The authenticator for this environment. Raises FatalError where there is none yet."""
    return DevAuthenticator(environment)


class Identity:
    """Runs calls as their tenants'; methods named tenantless run as nobody's."""

    def __init__(
        self,
        authenticator: Authenticator,
        tenants: TenantResolver,
        tenantless: frozenset[str],
    ) -> None:
        self._authenticator = authenticator
        self._tenants = tenants
        self._tenantless = tenantless

    async def known(self, call: Call, proceed: Proceed) -> Any:
        """Raises ServiceError UNAUTHENTICATED / TENANT_MISSING, NOT_FOUND / TENANT_UNKNOWN."""
        if call.method in self._tenantless:
            return await proceed()
        key = await self._authenticator.authenticate(call.metadata)
        tenant = await self._tenants.resolve(key)
        call.attributes["tenant"] = tenant.key
        with tenant_context(tenant):
            return await proceed()
