"""What the server knows of a slot, and how near it is to losing its log; pure."""

from dataclasses import dataclass
from enum import IntEnum


class Danger(IntEnum):
    """How near a slot is to losing its log."""

    NONE = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class SlotState:
    """A row of pg_replication_slots."""

    plugin: str | None
    is_here: bool | None
    """Whether it belongs to our database."""
    active: bool
    """Whether somebody reads from it."""
    wal_status: str
    """reserved, extended, unreserved or lost."""
    confirmed: int | None
    """The position up to which its reader has confirmed, in bytes."""
    retained_bytes: int
    """Log that the server keeps for it."""
    safe_bytes: int | None
    """Log that may still be written before it is lost; None: the server keeps any amount."""
    invalidation_reason: str = ""
    failover: bool = False
    """Whether standbys keep a copy of it, to go on with after a promotion."""

    @property
    def is_lost(self) -> bool:
        """Whether its log is gone, so that nobody can go on from it."""
        return self.wal_status == "lost" or bool(self.invalidation_reason)

    def used_share(self, unlimited_bytes: int) -> float:
        """How much of what the server keeps at most is used up, 1: it is lost with the next byte.

        Where the server has no bound, `unlimited_bytes` stands for the disk.
        """
        if self.is_lost:
            return 1.0
        if self.safe_bytes is None:
            return self.retained_bytes / unlimited_bytes
        kept_max = self.retained_bytes + max(0, self.safe_bytes)
        return self.retained_bytes / kept_max if kept_max else 0.0

    def danger(self, warning_share: float, critical_share: float, unlimited_bytes: int) -> Danger:
        """How loudly to speak of it."""
        used = self.used_share(unlimited_bytes)
        if self.is_lost or self.wal_status == "unreserved" or used >= critical_share:
            return Danger.CRITICAL
        return Danger.WARNING if used >= warning_share else Danger.NONE
