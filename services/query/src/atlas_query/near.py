"""Answers of hotcache that may be given again, in this process's memory. Pure: the clock is given.

What an answer holds does not change. One that was asked for at t, and said to be L behind, holds at
any later moment everything that was committed more than L + (moment - t) before. So whoever accepts
that much staleness may have it again, and is told so much lag; and whoever asks for positions that
it holds. Its token is of what it may show, which can be more than that.

An asset that all dashboards look at is then asked for a few times a second, however many look.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Generic, TypeVar

from atlas.type.freshness import Position, furthest
from atlas_common.cache import TtlCache
from atlas_query.consistency import Consistency, Source, Strong, staleness_bound
from atlas_query.proof import Proof, budget_warnings
from atlas_query.standings import by_lane

T = TypeVar("T")

ENDPOINT = "near cache"
ENTRIES_MAX = 20_000
BYTES_MAX = 64 * 2**20


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    value: T
    asked_at: float
    lag_seconds: float  # Of then.
    as_of: datetime | None
    newest: tuple[Position, ...]
    held: Mapping[int, Position]

    def holds(self, wanted: Sequence[Position]) -> bool:
        """Whether it holds these for certain: of another epoch of a lane nothing is known."""
        return all(
            (held := self.held.get(position.lane)) is not None
            and held.epoch == position.epoch
            and held.sequence >= position.sequence
            for position in wanted
        )


class NearCache(Generic[T]):
    """Entities as they were shown, each for a short time; bounded in number and bytes.

    `seconds_max`: how long; 0 keeps nothing. `size_bytes`: of a value. `clock`: monotonic seconds.
    """

    def __init__(
        self, seconds_max: float, size_bytes: Callable[[T], int], clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._forgot_at = -math.inf
        self._kept: TtlCache[Hashable, _Kept[T]] | None = None
        if seconds_max > 0:
            self._kept = TtlCache(
                ENTRIES_MAX,
                seconds_max,
                clock,
                weigh=lambda kept: size_bytes(kept.value),
                max_weight=BYTES_MAX,
            )

    def get(
        self, tenant_id: int, keys: Sequence[str], names: tuple[str, ...], consistency: Consistency
    ) -> tuple[list[T], Proof] | None:
        """All of the entities, and the proof of what they are; None unless all are fresh enough.

        `names`: of the attributes that are shown, as they were asked for.
        """
        if self._kept is None or isinstance(consistency.requirement, Strong):
            return None
        wanted = consistency.positions
        found: list[_Kept[T]] = []
        for key in keys:
            kept = self._kept.get((tenant_id, key, names))
            if kept is None or not kept.holds(wanted):
                return None
            found.append(kept)
        now = self._clock()
        lag = max(kept.lag_seconds + now - kept.asked_at for kept in found)
        bound = staleness_bound(consistency.requirement)
        if bound is not None and lag > bound:
            return None
        return [kept.value for kept in found], _proof(consistency, lag, found, now)

    def forget(self) -> None:
        """What was answered, or is being asked for, may be of a history that has ended."""
        self._forgot_at = self._clock()
        if self._kept is not None:
            self._kept.clear()

    def put(
        self,
        tenant_id: int,
        names: tuple[str, ...],
        asked_at: float,
        proof: Proof,
        values: Mapping[str, T],
    ) -> None:
        """Keep what hotcache answered. `asked_at`: by the clock, of before it was asked."""
        if self._kept is None or asked_at <= self._forgot_at:
            return
        held = by_lane(proof.held)
        for key, value in values.items():
            kept = _Kept(value, asked_at, proof.lag_seconds, proof.as_of, proof.positions, held)
            self._kept.put((tenant_id, key, names), kept)


def _proof(consistency: Consistency, lag: float, found: Sequence[_Kept[T]], now: float) -> Proof:
    as_ofs = [kept.as_of for kept in found if kept.as_of is not None]
    age = now - min(kept.asked_at for kept in found)
    return Proof(
        Source.CACHE,
        ENDPOINT,
        consistency.level,
        lag,
        min(as_ofs) if len(as_ofs) == len(found) else None,
        found[0].newest if len(found) == 1 else furthest(chain(*(kept.newest for kept in found))),
        f"hotcache answered the same {age:.2f} s ago",
        budget_warnings(Source.CACHE, lag),
    )
