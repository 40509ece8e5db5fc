"""Who makes the running call, and what he may."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

from atlas_common.scoped import Scoped

TELEMETRY_READ = "telemetry.read"
TELEMETRY_WRITE = "telemetry.write"
CATALOG_ADMIN = "catalog.admin"
PROJECTION_ADMIN = "projection.admin"
RECONCILE_ADMIN = "reconcile.admin"
PLATFORM_ADMIN = "platform.admin"
"""What is of all tenants at once: tenants themselves, the pipeline, dead letters."""
PLATFORM_STATUS = "platform.status"
"""How the platform is, over all tenants; nobody's data."""
PLATFORM_INTERNAL = "platform.internal"
"""What services tell each other."""
TENANT_ANY = "tenant.any"
"""To name any tenant, whatever one's own is. Needed besides the method's scope."""

METHOD_SCOPES = frozenset(
    {
        TELEMETRY_READ,
        TELEMETRY_WRITE,
        CATALOG_ADMIN,
        PROJECTION_ADMIN,
        RECONCILE_ADMIN,
        PLATFORM_ADMIN,
        PLATFORM_STATUS,
        PLATFORM_INTERNAL,
    }
)
"""What a method can need."""
SCOPES = METHOD_SCOPES | {TENANT_ANY}

_current: ContextVar["Caller | None"] = ContextVar("atlas_caller", default=None)


class CallerKind(StrEnum):
    """How a caller is known."""

    USER = "user"
    """By a signed token."""
    SERVICE = "service"
    """By a client certificate: another part of the platform, which knows whose call it makes."""
    ANYBODY = "anybody"
    """Not at all: the insecure mode of development."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified identity."""

    subject: str
    """A token's `sub`, or the name in a client certificate."""
    kind: CallerKind
    scopes: frozenset[str] = frozenset()
    tenant: str | None = None
    """The key of the tenant it belongs to; services belong to none."""
    ends_at: float | None = field(default=None, compare=False)
    """Until when it is verified, in seconds since 1970; None: as long as the connection is."""

    def may(self, scope: str) -> bool:
        """Whether it has this scope."""
        return scope in self.scopes

    @property
    def names_its_tenant(self) -> bool:
        """Whether the call itself says whose it is."""
        return self.kind is not CallerKind.USER


def caller_or_none() -> Caller | None:
    """Who makes the running call; None in work of our own."""
    return _current.get()


def acting(named: str) -> str:
    """Who acts, as an audit names him: who was verified, behind whom he says to act for.

    `named`: what the call says; "" if nothing. "unknown" where nobody was verified or named.
    """
    caller = _current.get()
    if caller is None or caller.kind is CallerKind.ANYBODY:
        return named or "unknown"
    return caller.subject if named in {"", caller.subject} else f"{named}, by {caller.subject}"


def caller_context(caller: Caller) -> Scoped[Caller]:
    """Run the block as work for this caller."""
    return Scoped(_current, caller)
