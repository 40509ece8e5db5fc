"""Whose data a piece of work is about."""

import re
from contextvars import ContextVar
from dataclasses import dataclass, field

from atlas_common import errors
from atlas_common.quotas import NO_QUOTAS, Quotas
from atlas_common.scoped import Scoped

TENANT_KEY_BYTES_MAX = 63
TENANT_ID_MAX = 2**31 - 1
_KEY = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)

_current: ContextVar["Tenant | None"] = ContextVar("atlas_tenant", default=None)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer, by the number the database knows and the key that people use."""

    id: int
    key: str
    quotas: Quotas = field(default=NO_QUOTAS, compare=False, repr=False)
    """Its own; as old as a service may remember a tenant."""

    def __post_init__(self) -> None:
        if not 0 < self.id <= TENANT_ID_MAX:
            raise ValueError(f"a tenant's id is in 1..{TENANT_ID_MAX}, not {self.id}")


def check_tenant_key(key: str) -> str:
    """The key itself if it is one: lower-case letters, digits, inner hyphens, at most 63.

    Raises ServiceError INVALID_ARGUMENT / INVALID_FIELD.
    """
    if len(key) > TENANT_KEY_BYTES_MAX or not _KEY.fullmatch(key):
        raise errors.invalid_argument(
            "INVALID_FIELD",
            "a tenant's key is 1 to 63 lower-case letters, digits and inner hyphens",
            field="tenant",
        )
    return key


def current_tenant() -> Tenant:
    """The tenant of the running call. Raises ServiceError UNAUTHENTICATED / TENANT_MISSING."""
    tenant = _current.get()
    if tenant is None:
        raise errors.unauthenticated("TENANT_MISSING", "this call names no tenant")
    return tenant


def tenant_or_none() -> Tenant | None:
    """The tenant of the running call, or None in work that has none."""
    return _current.get()


def tenant_context(tenant: Tenant) -> Scoped[Tenant]:
    """Run the block as work of this tenant."""
    return Scoped(_current, tenant)
