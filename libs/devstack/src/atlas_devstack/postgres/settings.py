"""What goes into postgresql.conf and pg_hba.conf."""

from collections.abc import Mapping

SUPERUSER = "postgres"
REPLICATION_USER = "atlas_replication"

_COMMON: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # TCP with passwords is the only way in.
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
    # A standby refuses to start with less of these than its primary has: all nodes get the same.
    "max_connections": "120",
    "max_worker_processes": "8",
    "max_wal_senders": "12",
    "max_replication_slots": "12",
    "max_prepared_transactions": "0",
    "wal_level": "logical",
    "hot_standby": "on",
    "hot_standby_feedback": "on",
    # A slot whose reader is gone may hold this much WAL, not the whole disk.
    "max_slot_wal_keep_size": "2GB",
    "max_wal_size": "1GB",
    "min_wal_size": "128MB",
    "checkpoint_timeout": "5min",
    "checkpoint_completion_target": "0.9",
    "wal_compression": "on",
    # A query on a replica may hold up replay for less than the replica's freshness budget (3 s).
    "max_standby_streaming_delay": "2s",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "500ms",
    "wal_receiver_timeout": "10s",
    "wal_sender_timeout": "10s",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "autovacuum_max_workers": "2",
    "autovacuum_naptime": "20s",
    "max_parallel_workers_per_gather": "1",
    "tcp_keepalives_idle": "10",
    "log_line_prefix": "%m [%p] %a %u@%d ",
    "log_checkpoints": "off",
    "log_min_duration_statement": "1s",
    "log_lock_waits": "on",
}

HBA = f"""\
# Loopback and passwords only.
host  replication  {REPLICATION_USER}  127.0.0.1/32  scram-sha-256
host  all          all                 127.0.0.1/32  scram-sha-256
"""


def render(
    *,
    name: str,
    port: int,
    fsync: bool,
    shared_buffers_mb: int,
    follows: str | None,
    syncs_slots: bool,
    extra: Mapping[str, str],
) -> str:
    """Return postgresql.conf for a node; `follows` is a replica's way to the primary (conninfo).

    `syncs_slots`: it knows how to keep copies of the primary's failover slots (PostgreSQL 17).
    """
    settings = {
        **_COMMON,
        "cluster_name": name,
        "port": str(port),
        "fsync": "on" if fsync else "off",
        "shared_buffers": f"{shared_buffers_mb}MB",
    }
    if follows is not None:
        settings["primary_conninfo"] = follows
        settings["primary_slot_name"] = slot_name(name)
        if syncs_slots:
            # Without synchronized_standby_slots on the primary: a replica that is down would hold
            # up the warehouse. One that lags and is promoted lacks what the warehouse has; the
            # reconciler finds that out and copies what differs.
            settings["sync_replication_slots"] = "on"
    settings.update(extra)
    lines = [f"{key} = '{_escape(value)}'" for key, value in settings.items()]
    return "# Written anew at every start.\n" + "\n".join(lines) + "\n"


def slot_name(node: str) -> str:
    """Return the physical replication slot of a replica (slot names know no dashes)."""
    return node.replace("-", "_")


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
