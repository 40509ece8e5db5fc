"""Postgres: pools, the tenant door, guarded snapshots, heartbeats, a check for excess rights."""

from atlas_common.db import rights
from atlas_common.db.audit import AuditLog
from atlas_common.db.clock import PrimaryClock, PrimaryClockPoller, PrimarySample
from atlas_common.db.connection import (
    Connection,
    Isolation,
    ReadConnection,
    WriteConnection,
    direct_connection,
)
from atlas_common.db.database import Database, PoolStats
from atlas_common.db.heartbeat import Heartbeat
from atlas_common.db.queries import load_queries
from atlas_common.db.tenancy import (
    NO_BEAT,
    Beat,
    BehindError,
    Freshness,
    PositionLostError,
    Snapshot,
    tenant_snapshot,
    tenant_transaction,
    use_tenant,
)
from atlas_common.db.tenants import PostgresTenants

__all__ = [
    "NO_BEAT",
    "AuditLog",
    "Beat",
    "BehindError",
    "Connection",
    "Database",
    "Freshness",
    "Heartbeat",
    "Isolation",
    "PoolStats",
    "PositionLostError",
    "PostgresTenants",
    "PrimaryClock",
    "PrimaryClockPoller",
    "PrimarySample",
    "ReadConnection",
    "Snapshot",
    "WriteConnection",
    "direct_connection",
    "load_queries",
    "rights",
    "tenant_snapshot",
    "tenant_transaction",
    "use_tenant",
]
