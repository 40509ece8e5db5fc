"""What a policy has done, as the service that does it says."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from atlas_common.tenant import Tenant

_LISTED_MAX = 8


class JobError(Exception):
    """A run that came to nothing; the text is for people."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to."""

    summary: str
    """For people, in a line."""
    is_finished: bool = True
    """False: something was in the way. The next run comes soon."""


Run = Callable[[Sequence[Tenant]], Awaitable[RunResult]]
"""Does the work for these tenants; a job that takes none is given none. Raises JobError."""


@dataclass(frozen=True, slots=True)
class Job:
    """Something that is to be done again and again."""

    name: str
    """As in `atlas policy add NAME`."""
    run: Run
    dry_run: Run
    """Says what `run` would do, and does nothing of it."""
    default_seconds: float | None
    """Interval of the default policy; None or 0: never by itself."""
    takes_tenants: bool = False
    """Whether a policy may be about some tenants only."""
    starts_at_once: bool = False
    """Whether the first run of all comes at once, not after an interval."""


def listed(items: Iterable[str]) -> str:
    """The first of them, and how many more there are."""
    every = list(items)
    shown = "; ".join(every[:_LISTED_MAX])
    more = len(every) - _LISTED_MAX
    return f"{shown}; and {more} more" if more > 0 else shown
