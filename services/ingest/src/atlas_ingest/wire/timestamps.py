"""Values of type TIME as messages bring them: seconds and nanoseconds, whatever numbers."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from atlas_ingest import rules
from atlas_ingest.arrow.values import Ruled

Ints: TypeAlias = npt.NDArray[np.int64]

_NANOS_MAX = 999_999_999


@dataclass(frozen=True, slots=True)
class Timestamps:
    """A TypedRows, see arrow.values: of google.protobuf.Timestamps."""

    rows: Ints
    seconds: Ints
    nanos: npt.NDArray[np.int32]

    def value(self, at: int) -> tuple[int, int]:
        """The value at a position."""
        return int(self.seconds[at]), int(self.nanos[at])

    def checked(self, ruled: Ruled) -> npt.NDArray[np.bool_]:  # noqa: ARG002 - the protocol's.
        """Those that are well formed, of the years that a timestamp can name."""
        seconds, nanos = self.seconds, self.nanos
        is_whole = (nanos >= 0) & (nanos <= _NANOS_MAX)
        is_named = (seconds >= rules.TIME_SECONDS_MIN) & (seconds <= rules.TIME_SECONDS_MAX)
        flags: npt.NDArray[np.bool_] = is_whole & is_named
        return flags

    def encoded(self, at: Ints | None) -> Ints:
        """Microseconds since 1970, of accepted values."""
        seconds, nanos = self.seconds, self.nanos
        if at is not None:
            seconds, nanos = seconds[at], nanos[at]
        return seconds * 1_000_000 + nanos // 1_000
