"""Whether a server that was promoted has what the warehouse has; pure.

A promotion forks the log: up to the fork both servers wrote the same, behind it the same position
means something else. A warehouse that read beyond the fork holds what the new primary never had.
"""

from atlas_cdc_reconciler.lsn import Lsn
from atlas_cdc_reconciler.source import SlotLostError


def check_reached(position: Lsn, was: int, timeline: int, history: str) -> None:
    """Raise SlotLostError if `position` on timeline `was` is no point of the log of `timeline`.

    `history` is the text of the timeline's history file: a line "ancestor, fork, reason" each.
    """
    forks: dict[int, Lsn] = {}
    for line in history.splitlines():
        fields = line.split(maxsplit=2)
        if len(fields) >= 2 and fields[0].isdecimal():
            forks[int(fields[0])] = Lsn.parse(fields[1])
    fork = forks.get(was)
    if fork is None:
        raise SlotLostError(
            f"the warehouse was filled on timeline {was}, which is no ancestor of the primary's"
            f" {timeline}"
        )
    if position > fork:
        raise SlotLostError(
            f"the warehouse stands at {position}, the primary that was promoted forked off at"
            f" {fork}: it never had what lies between"
        )
