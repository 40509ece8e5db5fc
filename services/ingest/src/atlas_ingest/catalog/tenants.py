"""What can be set about a tenant, and what that means for its writes. Pure."""

from dataclasses import dataclass
from datetime import timedelta

from atlas_common.quotas import NO_QUOTAS, Quotas
from atlas_ingest.columns import Window

FIELDS = (
    "display_name",
    "unknown_attribute_policy",
    "retention_class",
    "late_data_window",
    "quotas",
)
RETENTION_CLASS_DEFAULT = "standard"
LATE_DATA_WINDOW_MAX = timedelta(days=365_000)


@dataclass(frozen=True, slots=True)
class TenantDraft:
    """A tenant's fields as a caller wants them, checked.

    `late_data_window` None: the platform's.
    """

    display_name: str = ""
    unknown_attribute_policy: str = "reject"
    retention_class: str = RETENTION_CLASS_DEFAULT
    late_data_window: timedelta | None = None
    quotas: Quotas = NO_QUOTAS


@dataclass(frozen=True, slots=True)
class TenantSettings:
    """What of a tenant decides about its writes. `late_data_window_us` None: the platform's."""

    registers_unknown_attributes: bool = False
    late_data_window_us: int | None = None

    def window(self, now_us: int, platform: Window) -> Window:
        """The event times that are accepted of this tenant; `platform`: of others."""
        if self.late_data_window_us is None:
            return platform
        return Window(now_us - self.late_data_window_us, platform.newest_us)
