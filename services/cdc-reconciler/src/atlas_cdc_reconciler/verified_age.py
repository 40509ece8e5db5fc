"""How old the verified past of each tenant is, against the freshness budget. Pure."""

from dataclasses import dataclass

_US = 1_000_000


@dataclass(frozen=True, slots=True)
class _Seen:
    sealed_us: int
    """The primary's clock at the last look."""
    verified_through_us: int
    at_seconds: float
    """A steady clock at the last look."""


class VerifiedAges:
    """Ages go on by a steady clock while nothing can be compared: an outage is no freshness."""

    def __init__(self, budget_seconds: float) -> None:
        self._budget_seconds = budget_seconds
        self._seen: dict[str, _Seen] = {}

    def note(
        self, tenant_key: str, sealed_us: int, verified_through_us: int, now_seconds: float
    ) -> None:
        """Take in what a round of reconciliation found of a tenant."""
        self._seen[tenant_key] = _Seen(sealed_us, verified_through_us, now_seconds)

    def worst_seconds(self, now_seconds: float) -> float:
        """The age of the tenant that is furthest behind; -1 while nothing is known."""
        ages = [self._age(seen, now_seconds) for seen in self._seen.values()]
        return max(ages, default=-1.0)

    def breaches(self, now_seconds: float) -> list[str]:
        """Keys of the tenants whose verified past is older than the budget allows."""
        return [
            key
            for key, seen in self._seen.items()
            if self._age(seen, now_seconds) > self._budget_seconds
        ]

    @staticmethod
    def _age(seen: _Seen, now_seconds: float) -> float:
        behind = max(0, seen.sealed_us - seen.verified_through_us) / _US
        return behind + now_seconds - seen.at_seconds
