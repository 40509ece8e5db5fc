"""Shows the circuit breakers of a process."""

from collections.abc import Callable, Mapping

from atlas_common.breaker import Breaker, BreakerState
from atlas_common.telemetry import metrics


def show_breakers(read: Callable[[], Mapping[str, Breaker]]) -> None:
    """Export, by endpoint, whether its breaker is open: 1 until a probe has closed it. Once only.

    Half-open counts as open: it is that for a moment each second, and proves nothing.
    """

    def open_ones() -> Mapping[str, float]:
        return {
            name: float(breaker.state is not BreakerState.CLOSED)
            for name, breaker in read().items()
        }

    metrics.gauge("atlas.breaker.open", "{breakers}", "1 while calls are kept away.", open_ones)
