"""The scope that counts a tenant's calls and streams."""

from typing import Any

from atlas_common.caller import CallerKind, caller_or_none
from atlas_common.metering import QuotaMeters
from atlas_common.rpc.scope import Call, Proceed
from atlas_common.tenant import tenant_or_none


class Metering:
    """Lets a tenant's calls through as far as its quotas go.

    What another service asks on a tenant's behalf is not counted: it was where the tenant's own
    call came in, and to refuse half of a call would send it to a place where it costs more.
    """

    def __init__(self, meters: QuotaMeters) -> None:
        self._meters = meters

    async def metered(self, call: Call, proceed: Proceed) -> Any:
        """Raises ServiceError RESOURCE_EXHAUSTED / QUOTA_EXCEEDED, before any work is done."""
        tenant, caller = tenant_or_none(), caller_or_none()
        if tenant is None or (caller is not None and caller.kind is CallerKind.SERVICE):
            return await proceed()
        self._meters.take_call(tenant)
        if call.is_unary:
            return await proceed()
        with self._meters.stream(tenant):
            return await proceed()
