"""What the platform consists of: its services with their roles, and the tenants of development."""

from dataclasses import dataclass

from atlas_devstack.errors import DevstackError

DATABASE = "atlas"
DEFAULT_TENANTS = ("acme", "globex", "initech")


@dataclass(frozen=True)
class ServiceKind:
    """One of the platform's services."""

    name: str
    module: str
    role: str
    """Its role in the database."""


SERVICES = {
    kind.name: kind
    for kind in (
        ServiceKind("ingest", "atlas_ingest", "atlas_ingest"),
        ServiceKind("hotcache", "atlas_hotcache", "atlas_hotcache"),
        ServiceKind("query", "atlas_query", "atlas_query"),
        ServiceKind("cdc-reconciler", "atlas_cdc_reconciler", "atlas_reconciler"),
    )
}

MAINTENANCE_ROLE = "atlas_maintenance"
MONITOR_ROLE = "atlas_monitor"
INDEXER_ROLE = "atlas_indexer"
ROLES = (*(kind.role for kind in SERVICES.values()), MAINTENANCE_ROLE, MONITOR_ROLE, INDEXER_ROLE)
"""All that can log in."""


def check_names(names: tuple[str, ...]) -> None:
    """Raise DevstackError for a name that is no service."""
    unknown = sorted(set(names) - set(SERVICES))
    if unknown:
        known = ", ".join(SERVICES)
        raise DevstackError(f"no service is called {', '.join(unknown)}; there are {known}")
