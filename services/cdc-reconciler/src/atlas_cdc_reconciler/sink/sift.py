"""Work on many things at once, of which some may be at fault: finds those, does it on the rest."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def sift(
    count: int, work: Callable[[int, int], T], faults: tuple[type[Exception], ...]
) -> tuple[list[tuple[int, int, T]], list[tuple[int, Exception]]]:
    """Do the work on 0..count in as large parts as it succeeds on.

    `work(start, stop)` raises one of `faults` if anything of its part is at fault. A part that
    fails is halved, so that what is found costs count * log(faults) and not count * faults; the
    halves that succeed need not be done again. Returns (start, stop, result) of the parts, and
    what is at fault with its error, both in order.
    """
    done: list[tuple[int, int, T]] = []
    bad: list[tuple[int, Exception]] = []
    parts = [(0, count)] if count else []
    while parts:
        start, stop = parts.pop()
        try:
            done.append((start, stop, work(start, stop)))
        except faults as error:
            if stop - start == 1:
                bad.append((start, error))
                continue
            middle = (start + stop) // 2
            parts += ((middle, stop), (start, middle))
    return done, bad
