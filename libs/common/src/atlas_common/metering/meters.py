"""Counts what each tenant takes in this process, and refuses what is beyond its quotas."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from atlas_common import errors
from atlas_common.config import QuotaConfig
from atlas_common.errors import ServiceError
from atlas_common.metering.bucket import Bucket
from atlas_common.quotas import Quotas
from atlas_common.telemetry import metrics
from atlas_common.tenant import Tenant

_STREAM_RETRY_SECONDS = 1.0
_COUNT_RETRY_SECONDS = 30.0  # By then every process knows of a quota that was raised.
_CHARGED_SECONDS_MAX = 60.0  # Nobody was asked to slow down: so the debt is bounded.
_PAUSE_SECONDS_MAX = 1.0  # A wait looks again so often: the quota may have been raised.
_refusals = metrics.counter(
    "atlas.quota.refusals", "{refusals}", "Calls and batches refused or held up, by quota."
)


class QuotaMeters:
    """The meters of all tenants, each made when it is needed first.

    Not thread-safe: one event loop uses it. At most `tenants_max` are kept, and the one that was
    not used for longest goes first: it comes back with full buckets.
    """

    def __init__(self, config: QuotaConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._meters: OrderedDict[int, _Meters] = OrderedDict()

    def __len__(self) -> int:
        return len(self._meters)

    def entities(self, tenant: Tenant) -> int:
        """How many entities the tenant may have."""
        own = self._known(tenant).quotas.entities
        return self._config.entities if own is None else own

    def attributes(self, tenant: Tenant) -> int:
        """How many attributes the tenant may have."""
        own = self._known(tenant).quotas.attributes
        return self._config.attributes if own is None else own

    def take_call(self, tenant: Tenant) -> None:
        """Count a call. Raises ServiceError RESOURCE_EXHAUSTED / QUOTA_EXCEEDED."""
        meters = self._of(tenant)
        seconds = meters.calls.take(1.0, self._clock())
        if seconds:
            raise exceeded(tenant, "calls_per_second", meters.calls_per_second, seconds)

    @contextmanager
    def stream(self, tenant: Tenant) -> Iterator[None]:
        """Count a stream for the block. Raises ServiceError RESOURCE_EXHAUSTED / QUOTA_EXCEEDED."""
        meters = self._of(tenant)
        if meters.streams >= meters.streams_max:
            raise exceeded(
                tenant, "concurrent_streams", meters.concurrent_streams, _STREAM_RETRY_SECONDS
            )
        meters.streams += 1
        try:
            yield
        finally:
            meters.streams -= 1

    def take_points(self, tenant: Tenant, points: int) -> None:
        """Count points. Raises ServiceError RESOURCE_EXHAUSTED / QUOTA_EXCEEDED."""
        meters = self._of(tenant)
        seconds = meters.points.take(points, self._clock())
        if seconds:
            raise exceeded(tenant, "points_per_second", meters.points_per_second, seconds)

    async def points_in_time(
        self, tenant: Tenant, points: int, seconds_max: float = math.inf
    ) -> None:
        """Count points, once the tenant may bring them.

        Raises ServiceError RESOURCE_EXHAUSTED / QUOTA_EXCEEDED when that takes too long.
        """
        ends = self._clock() + seconds_max
        is_told = False
        while True:
            meters = self._known(tenant)
            seconds = meters.points.take(points, self._clock())
            if not seconds:
                return
            if self._clock() + seconds > ends:
                raise exceeded(tenant, "points_per_second", meters.points_per_second, seconds)
            if not is_told:
                is_told = True
                _refusals.add(1, {"quota": "points_per_second"})
            await asyncio.sleep(min(seconds, _PAUSE_SECONDS_MAX))

    def charge_points(self, tenant: Tenant, points: int) -> None:
        """Count points that are taken in whatever the quota says: later calls repay them."""
        bucket = self._of(tenant).points
        bucket.charge(points, self._clock(), debt_seconds_max=_CHARGED_SECONDS_MAX)

    def check_warehouse(self, tenant: Tenant) -> None:
        """Return unless the tenant's reads of the warehouse took too long lately.

        Raises ServiceError RESOURCE_EXHAUSTED / QUOTA_EXCEEDED.
        """
        meters = self._of(tenant)
        seconds = meters.warehouse.take(0.0, self._clock())
        if seconds:
            raise exceeded(
                tenant,
                "warehouse_seconds_per_minute",
                meters.warehouse_seconds_per_minute,
                seconds,
            )

    def charge_warehouse(self, tenant: Tenant, seconds: float) -> None:
        """Count what a read of the warehouse took."""
        self._known(tenant).warehouse.charge(seconds, self._clock())

    def _of(self, tenant: Tenant) -> "_Meters":
        """For a call that has just begun: the quotas are those that its tenant came with."""
        meters = self._known(tenant)
        if meters.quotas is not tenant.quotas:
            if meters.quotas != tenant.quotas:
                meters.use(tenant.quotas, self._clock())
            meters.quotas = tenant.quotas  # Read again: next time it is the same one.
        return meters

    def _known(self, tenant: Tenant) -> "_Meters":
        """For what goes on longer: the tenant that it has may be of before a change of quotas."""
        meters = self._meters.get(tenant.id)
        if meters is None:
            meters = self._meters[tenant.id] = _Meters(tenant.quotas, self._config, self._clock())
            if len(self._meters) > self._config.tenants_max:
                self._meters.popitem(last=False)
        else:
            self._meters.move_to_end(tenant.id)
        return meters


class _Meters:
    """One tenant's."""

    __slots__ = (
        "_config",
        "calls",
        "calls_per_second",
        "concurrent_streams",
        "points",
        "points_per_second",
        "quotas",
        "streams",
        "streams_max",
        "warehouse",
        "warehouse_seconds_per_minute",
    )

    def __init__(self, quotas: Quotas, config: QuotaConfig, now: float) -> None:
        self._config = config
        self.streams = 0
        self.use(quotas, now)

    def use(self, quotas: Quotas, now: float) -> None:
        """Begin anew with these quotas: to have raised one helps at once."""
        config = self._config
        self.quotas = quotas
        self.calls_per_second = _either(quotas.calls_per_second, config.calls_per_second)
        self.points_per_second = _either(quotas.points_per_second, config.points_per_second)
        self.warehouse_seconds_per_minute = _either(
            quotas.warehouse_seconds_per_minute, config.warehouse_seconds_per_minute
        )
        self.concurrent_streams = _either(quotas.concurrent_streams, config.concurrent_streams)
        self.streams_max = math.ceil(self.concurrent_streams / config.processes)
        share, burst = 1 / config.processes, config.burst_seconds
        self.calls = Bucket(self.calls_per_second * share, burst, now)
        self.points = Bucket(self.points_per_second * share, burst, now)
        # One process has the warehouse, and a minute's is saved up.
        self.warehouse = Bucket(self.warehouse_seconds_per_minute / 60, 60, now, least=0)


def exceeded(tenant: Tenant, quota: str, limit: float, retry_after: float) -> ServiceError:
    """The refusal of what is beyond a quota; counted. `limit`: the tenant's, of all processes."""
    _refusals.add(1, {"quota": quota})
    return errors.resource_exhausted(
        "QUOTA_EXCEEDED",
        f"the tenant {tenant.key!r} has reached its quota {quota} of {limit:g}: come back in"
        f" {retry_after:.3g} s, or have the platform's operator raise it",
        retry_after=retry_after,
        quota=quota,
        limit=f"{limit:g}",
    )


def exceeded_count(tenant: Tenant, quota: str, limit: int) -> ServiceError:
    """Likewise of what does not come back by waiting."""
    return exceeded(tenant, quota, limit, _COUNT_RETRY_SECONDS)


def _either(own: float | None, usual: float) -> float:
    return usual if own is None else own
