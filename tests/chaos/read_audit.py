"""Judges answers of reads by what had been committed when they were given. Pure: no I/O, no clock.

A writer gives all attributes of an entity one version after another: 1, 2, 3, ... Whoever reads
tells what it asked for, when, and which versions it was shown. Moments are the test's monotonic
seconds, which no step of any machine's clock touches; what an answer says in the primary's time is
compared with that alone.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

_SHOWN_MAX = 5


class Level(Enum):
    """What a read asked for."""

    STRONG = "strong"
    EVENTUAL = "eventual"
    TOKEN = "token"


@dataclass(frozen=True)
class Subject:
    """An entity of a tenant."""

    tenant: str
    entity: str


@dataclass(frozen=True)
class Shown:
    """What an answer says of one entity. `versions`: of each of its readings."""

    subject: Subject
    versions: frozenset[int]
    held: int = 0
    """The version that the read's token stands for, if it had one."""
    is_at_most: bool = False
    """The version is known as an upper bound only: nothing newer was shown."""

    @property
    def version(self) -> int:
        """The oldest; 0 if there is none."""
        return min(self.versions, default=0)


@dataclass(frozen=True)
class Answer:
    """One answered read."""

    level: Level
    asked_at: float
    answered_at: float
    endpoint: str
    lag_seconds: float
    """As stated; infinite if it is said to be unknown."""
    as_of: datetime | None
    shown: Sequence[Shown]
    bound_seconds: float | None = None
    """EVENTUAL's max_staleness."""


class Truth:
    """What was written of one entity, and by when it was surely committed."""

    def __init__(self) -> None:
        self.begun = 0
        """The newest version that may have been committed."""
        self._moments: list[float] = []
        self._times: list[datetime] = []

    def begin(self) -> int:
        """The next version, about to be sent."""
        self.begun += 1
        return self.begun

    def committed(self, moment: float, primary_time: datetime) -> None:
        """All that was begun is committed, by this moment and by this time of the primary's."""
        while len(self._moments) < self.begun:
            self._moments.append(moment)
            self._times.append(primary_time)

    def at(self, moment: float) -> int:
        """The newest version that was surely committed at a moment."""
        return bisect_right(self._moments, moment)

    def before(self, primary_time: datetime) -> int:
        """The newest version that was surely committed before a time of the primary's."""
        return len([time for time in self._times if time < primary_time])


@dataclass
class ReadAudit:
    """Collects answers, from any number of readers at the same time, and what is wrong with them.

    `canaries`: for each tenant a text that is part of its data, and of no other's.
    """

    canaries: Mapping[str, str]
    violations: list[str] = field(default_factory=list)
    violation_count: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    """By endpoint."""
    _truths: dict[Subject, Truth] = field(default_factory=dict)
    _strong: dict[Subject, "_Rising"] = field(default_factory=dict)

    def truth(self, subject: Subject) -> Truth:
        """What is known of an entity."""
        return self._truths.setdefault(subject, Truth())

    def judge(self, answer: Answer) -> None:
        """Check one answer against every promise."""
        self.answers[answer.endpoint] += 1
        bound = answer.bound_seconds
        if bound is not None and answer.lag_seconds > bound:
            self._wrong(answer, f"the lag exceeds {bound} s")
        for shown in answer.shown:
            self._judge(answer, shown)

    def judge_bytes(self, tenant: str, *messages: bytes) -> None:
        """Nothing that a tenant is sent, errors included, may hold another's canary."""
        for other, canary in self.canaries.items():
            if other != tenant and any(canary.encode() in message for message in messages):
                self.note(f"{tenant} was sent data of {other}")

    def assert_sound(self) -> None:
        """Raises AssertionError naming the first violations."""
        assert not self.violations, f"{self.violation_count} violations: {self.violations}"

    def _judge(self, answer: Answer, shown: Shown) -> None:
        truth, found = self.truth(shown.subject), shown.version
        if len(shown.versions) > 1:
            self._wrong(answer, f"{shown.subject} is torn: {sorted(shown.versions)}")
        if max(shown.versions, default=0) > truth.begun:
            self._wrong(answer, f"{shown.subject} has {found}, never written")
        for least, why in self._demands(answer, shown, truth):
            if found < least:
                self._wrong(answer, f"{shown.subject} has {found} and not {least}: {why}")
        if answer.level is Level.STRONG:
            strong = self._strong.setdefault(shown.subject, _Rising())
            strong.add(answer.answered_at, found)

    def _demands(self, answer: Answer, shown: Shown, truth: Truth) -> Iterable[tuple[int, str]]:
        yield shown.held, "its token holds that"
        asked_at = answer.asked_at
        if answer.level is Level.STRONG:
            yield truth.at(asked_at), "committed before the call, which is STRONG"
            if (strong := self._strong.get(shown.subject)) is not None:
                yield strong.at(asked_at), "an earlier STRONG answer had that"
        # A lag is told after the call was made, so it is at least that old in the call's own time.
        yield truth.at(asked_at - answer.lag_seconds), "committed longer ago than the stated lag"
        if answer.bound_seconds is not None:
            yield truth.at(asked_at - answer.bound_seconds), "committed longer ago than the bound"
        if answer.as_of is not None:
            yield truth.before(answer.as_of), "committed before as_of"

    def _wrong(self, answer: Answer, what: str) -> None:
        self.note(
            f"{what} ({answer.level.value}, bound {answer.bound_seconds}, {answer.endpoint},"
            f" lag {answer.lag_seconds:.3f}, took {answer.answered_at - answer.asked_at:.3f} s)"
        )

    def note(self, violation: str) -> None:
        """A violation that somebody else found."""
        self.violation_count += 1
        if len(self.violations) < _SHOWN_MAX:
            self.violations.append(violation)


class _Rising:
    """The newest version seen by a moment."""

    def __init__(self) -> None:
        self._moments: list[float] = []
        self._versions: list[int] = []

    def add(self, moment: float, version: int) -> None:
        """Told in any order of versions, in rising order of moments."""
        newest = self._versions[-1] if self._versions else 0
        if version > newest:
            self._moments.append(moment)
            self._versions.append(version)

    def at(self, moment: float) -> int:
        index = bisect_right(self._moments, moment)
        return self._versions[index - 1] if index else 0


def lag_seconds(metadata: Any) -> float:
    """The stated lag of ReadMetadata."""
    if not metadata.HasField("lag"):
        return float("inf")
    return float(metadata.lag.ToTimedelta().total_seconds())
