"""Checks batches, those whose patterns may take long beside the event loop.

A pattern never backtracks (RE2), so its work is bounded by the bytes of the text times the steps of
the compiled pattern. That product decides: most batches are checked where they are; a large one
goes to a thread, where RE2 lets go of the interpreter; one beyond all bounds is refused.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from atlas_common import errors
from atlas_ingest.columns import Checked, Window
from atlas_ingest.rules import REGEX_STEPS_MAX, Rule
from atlas_ingest.write import Write

# A step took 0.05 ns with ordinary patterns and 9 ns with the worst that could be found.
INLINE_STEPS_MAX = 4_000_000
STEPS_MAX = 2_000_000_000
_BYTES_ALWAYS_INLINE = INLINE_STEPS_MAX // REGEX_STEPS_MAX


class Matching:
    """One thread for all: costly patterns wait for each other, and nobody else does."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="matching")

    async def check(self, write: Write, rules: Mapping[str, Rule], window: Window) -> Checked:
        """What `write.columns.check` answers.

        Raises ServiceError INVALID_ARGUMENT / BATCH_TOO_LARGE for more work than is done for one
        batch.
        """
        if write.size_bytes <= _BYTES_ALWAYS_INLINE:
            return write.columns.check(rules, window)
        steps_per_byte = max((rule.steps_per_byte for rule in rules.values()), default=0)
        steps = steps_per_byte * write.size_bytes
        if steps <= INLINE_STEPS_MAX:
            return write.columns.check(rules, window)
        if steps > STEPS_MAX:
            most = STEPS_MAX // steps_per_byte
            raise errors.invalid_argument(
                "BATCH_TOO_LARGE",
                f"the batch has {write.size_bytes} bytes and one of its attributes a pattern so"
                f" complex that at most {most} are matched at once: split it",
                field="points",
                bytes_max=most,
            )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, write.columns.check, rules, window)
