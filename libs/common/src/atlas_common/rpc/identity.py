"""The scope that finds out who calls, whether he may, and whose call it is."""

import asyncio
import time
from typing import Any, Protocol

from atlas_common import errors
from atlas_common.caller import TENANT_ANY, Caller, caller_context
from atlas_common.rpc.access import Accesses
from atlas_common.rpc.authenticator import Authenticator
from atlas_common.rpc.scope import Call, Proceed
from atlas_common.telemetry.logs import logger
from atlas_common.tenant import Tenant, tenant_context

TENANT_KEY = "x-atlas-tenant"
_log = logger("atlas.audit")


class TenantResolver(Protocol):
    """Knows the tenants."""

    async def resolve(self, key: str) -> Tenant:
        """The tenant of this key. Raises ServiceError NOT_FOUND / TENANT_UNKNOWN."""
        ...


class Identity:
    """Runs calls as their callers', and as their tenants' where the contract gives them one."""

    def __init__(
        self, authenticator: Authenticator, tenants: TenantResolver, accesses: Accesses
    ) -> None:
        self._authenticator = authenticator
        self._tenants = tenants
        self._accesses = accesses

    async def known(self, call: Call, proceed: Proceed) -> Any:
        """Raises ServiceError UNAUTHENTICATED, PERMISSION_DENIED, NOT_FOUND / TENANT_UNKNOWN."""
        caller = await self._authenticator.authenticate(call)
        call.attributes["caller"] = caller.subject
        access = self._accesses.get(call.method)
        if access is None:  # Served, but not among the services that were looked at.
            raise errors.permission_denied("SCOPE_MISSING", "nobody may call this method")
        if not caller.may(access.scope):
            raise errors.permission_denied(
                "SCOPE_MISSING", f"this needs the scope {access.scope}", scope=access.scope
            )
        with caller_context(caller):
            if access.tenantless:
                return await _while_verified(call, caller, proceed)
            tenant = await self._tenants.resolve(_tenant_key(call, caller))
            call.attributes["tenant"] = tenant.key
            with tenant_context(tenant):
                return await _while_verified(call, caller, proceed)


async def _while_verified(call: Call, caller: Caller, proceed: Proceed) -> Any:
    """A stream ends with the token it began with; else a stolen one would be good for ever.

    Raises ServiceError UNAUTHENTICATED / CREDENTIALS_EXPIRED.
    """
    if call.is_unary or caller.ends_at is None:
        return await proceed()
    timer = asyncio.timeout(max(0.0, caller.ends_at - time.time()))
    try:
        async with timer:
            return await proceed()
    except TimeoutError:
        if not timer.expired():
            raise  # Some other wait's end, which nobody handled.
        raise errors.unauthenticated(
            "CREDENTIALS_EXPIRED", "the token has ended: begin the stream again with a new one"
        ) from None


def _tenant_key(call: Call, caller: Caller) -> str:
    """The key of the tenant whose call it is: that of the identity, which alone is verified."""
    named = _named(call)
    if caller.names_its_tenant or named is None or named == caller.tenant:
        key = named or caller.tenant
        if key is None:
            raise errors.unauthenticated(
                "TENANT_MISSING", f"the call names no tenant in {TENANT_KEY}", field=TENANT_KEY
            )
        return key
    if not caller.may(TENANT_ANY):
        raise errors.permission_denied(
            "TENANT_FORBIDDEN", "the call names a tenant that is not its caller's", field=TENANT_KEY
        )
    _log.warning(
        "cross-tenant access",
        caller=caller.subject,
        caller_tenant=caller.tenant,
        tenant=named,
        method=call.method,
    )
    return named


def _named(call: Call) -> str | None:
    named = {value for key, value in call.metadata if key == TENANT_KEY}
    if len(named) > 1:
        raise errors.unauthenticated(
            "TENANT_MISSING", "the call names several tenants", field=TENANT_KEY
        )
    (key,) = named or (None,)
    return key if isinstance(key, str) and key else None
