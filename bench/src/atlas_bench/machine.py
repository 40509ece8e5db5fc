"""Facts of the machine, without which a figure says nothing."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import psycopg


def facts(admin_dsn: str) -> dict[str, Any]:
    """Return what the figures depend on."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT current_setting('server_version'), current_setting('fsync'),"
            " current_setting('shared_buffers'), current_setting('synchronous_commit')"
        ).fetchone()
    assert row is not None
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "psycopg": version("psycopg"),
        "postgres": dict(
            zip(("version", "fsync", "shared_buffers", "synchronous_commit"), row, strict=True)
        ),
        # Well above 0 without us: the machine is shared, and the figures are worth less.
        "load_average_at_start": [round(value, 2) for value in os.getloadavg()],
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())
