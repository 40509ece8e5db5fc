"""Which calls get a line in the log."""

import grpc

from atlas_common.rpc.scope import Call

_EXPECTED = {"QUOTA_EXCEEDED"}  # One tenant's flood of refusals is not to be one of lines.


class AccessLog:
    """Every call that failed, but for want of quota, and of the others so many a second.

    At thousands of calls a second nobody reads their lines, the disk fills with them, and they cost
    a tenth of a small call. Metrics count every call. Those left out are counted, too: the next
    line says how many there were.
    """

    def __init__(self, lines_per_second_max: float) -> None:
        self._rate = lines_per_second_max
        self._allowance = lines_per_second_max  # A second's worth at once.
        self._refilled_at = 0.0
        self._left_out = 0

    def admits(self, call: Call, now: float) -> bool:
        """Whether this call, which has ended, gets a line. `now`: monotonic seconds."""
        if call.code is not grpc.StatusCode.OK and call.reason not in _EXPECTED:
            return True
        refilled = self._allowance + (now - self._refilled_at) * self._rate
        self._allowance, self._refilled_at = min(self._rate, refilled), now
        if self._allowance < 1:
            self._left_out += 1
            return False
        self._allowance -= 1
        return True

    def take_left_out(self) -> int | None:
        """How many calls had no line since the last one that had; None if all had."""
        left_out, self._left_out = self._left_out, 0
        return left_out or None
