"""How late policies are: also those of other services, which may be down and say nothing."""

import asyncio
from collections.abc import Mapping

import psycopg

from atlas_common.errors import ServiceError
from atlas_common.maintenance.store import Late, PolicyStore
from atlas_common.telemetry import logger, metrics

_LOOK_SECONDS = 15.0
_log = logger(__name__)
_seen: Mapping[str, Late] = {}
"""By job, as of the last look; none while the primary cannot be asked."""


async def watch(store: PolicyStore) -> None:
    """Look again and again, for the gauges, until cancelled; through outages."""
    while True:
        await look(store)
        await asyncio.sleep(_LOOK_SECONDS)


async def look(store: PolicyStore) -> Mapping[str, Late]:
    """What the gauges tell from now on."""
    global _seen  # noqa: PLW0603 - gauges are the process's.
    try:
        _seen = await store.lateness()
    except (ServiceError, psycopg.Error) as error:
        _seen = {}
        _log.warning("policies cannot be looked at", error=str(error))
    return _seen


metrics.gauge(
    "atlas.maintenance.lateness",
    "1",
    "Intervals since a job's policy was due, whether it runs now or not; 0: it is not.",
    lambda: {job: late.intervals for job, late in _seen.items()},
)
metrics.gauge(
    "atlas.maintenance.untaken",
    "s",
    "Since a job's policy is due and nobody runs it; 0: somebody does, or it is not due.",
    lambda: {job: late.untaken_seconds for job, late in _seen.items()},
)
