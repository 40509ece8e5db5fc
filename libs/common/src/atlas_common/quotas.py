"""A tenant's own quotas, as the catalog has them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Quotas:
    """What one tenant may take; None: as much as the service's settings say."""

    points_per_second: float | None = None
    calls_per_second: float | None = None
    entities: int | None = None
    attributes: int | None = None
    concurrent_streams: int | None = None
    warehouse_seconds_per_minute: float | None = None

    @classmethod
    def of(cls, stored: Mapping[str, float]) -> "Quotas":
        """From what is stored; a quota that only a newer release knows is left out."""
        if not stored:
            return NO_QUOTAS
        return cls(**{name: stored[name] for name in QUOTAS if name in stored})  # type: ignore[arg-type]

    def to_stored(self) -> dict[str, float]:
        """Those that are set, by name."""
        values = {name: getattr(self, name) for name in QUOTAS}
        return {name: value for name, value in values.items() if value is not None}


QUOTAS = tuple(field.name for field in fields(Quotas))
NO_QUOTAS = Quotas()
