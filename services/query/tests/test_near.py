"""Answers that may be given again: how stale they are by then, and to whom."""

from datetime import UTC, datetime

import pytest

from atlas.type.freshness import Position
from atlas_query.consistency import (
    AtLeastAsFresh,
    Consistency,
    Eventual,
    Level,
    Requirement,
    Source,
    Strong,
)
from atlas_query.near import NearCache
from atlas_query.proof import Proof

ACME, GLOBEX = 1, 2
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
FIRST, SECOND = Position(0, 1, 7), Position(1, 1, 9)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def near(clock: Clock) -> NearCache[str]:
    return NearCache(0.5, len, clock)


def answered(
    lag: float = 0.2,
    *held: Position,
    as_of: datetime | None = NOON,
    newest: tuple[Position, ...] = (),
) -> Proof:
    newest = newest or held
    return Proof(Source.CACHE, "hotcache", Level.EVENTUAL, lag, as_of, newest, "", held=held)


def wanted(requirement: Requirement) -> Consistency:
    return Consistency(requirement)


EVENTUAL = wanted(Eventual())


def test_what_was_answered_is_answered_again_with_its_age_in_the_lag(
    near: NearCache[str], clock: Clock
) -> None:
    near.put(ACME, (), 100.0, answered(0.2), {"pump": "4 bar"})
    clock.now = 100.3
    found = near.get(ACME, ["pump"], (), EVENTUAL)
    assert found is not None
    values, proof = found
    assert values == ["4 bar"]
    assert proof.lag_seconds == pytest.approx(0.5)
    assert (proof.source, proof.as_of) == (Source.CACHE, NOON)


def test_nobody_gets_it_who_accepts_less_staleness(near: NearCache[str], clock: Clock) -> None:
    near.put(ACME, (), 100.0, answered(0.2), {"pump": "4 bar"})
    clock.now = 100.3
    assert near.get(ACME, ["pump"], (), wanted(Eventual(0.51))) is not None
    assert near.get(ACME, ["pump"], (), wanted(Eventual(0.49))) is None
    assert near.get(ACME, ["pump"], (), wanted(Strong())) is None


def test_it_is_forgotten_after_its_time(near: NearCache[str], clock: Clock) -> None:
    near.put(ACME, (), 100.0, answered(0.0), {"pump": "4 bar"})
    clock.now = 100.6
    assert near.get(ACME, ["pump"], (), wanted(Eventual(60))) is None


def test_a_token_is_honoured_only_by_what_holds_its_positions(near: NearCache[str]) -> None:
    near.put(ACME, (), 100.0, answered(0.0, FIRST), {"pump": "4 bar"})
    for asked, is_found in (((FIRST,), True), ((FIRST, SECOND), False), ((), True)):
        for requirement in (Eventual(3.0, asked, b"t"), AtLeastAsFresh(asked, b"t")):
            found = near.get(ACME, ["pump"], (), wanted(requirement))
            assert (found is not None) is is_found
            assert found is None or found[1].positions == (FIRST,)


@pytest.mark.parametrize(
    ("position", "is_held"),
    [
        (Position(FIRST.lane, FIRST.epoch, FIRST.sequence - 1), True),
        (Position(FIRST.lane, FIRST.epoch, FIRST.sequence + 1), False),
        # Of another epoch nothing is known: the lane may have fallen back in between.
        (Position(FIRST.lane, FIRST.epoch - 1, FIRST.sequence - 1), False),
        (Position(FIRST.lane, FIRST.epoch + 1, FIRST.sequence - 1), False),
    ],
)
def test_what_is_held_holds_all_before_it_in_its_epoch(
    near: NearCache[str], position: Position, is_held: bool
) -> None:
    near.put(ACME, (), 100.0, answered(0.0, FIRST), {"pump": "4 bar"})
    found = near.get(ACME, ["pump"], (), wanted(Eventual(3.0, (position,), b"t")))
    assert (found is not None) is is_held


def test_the_token_is_of_the_newest_that_may_be_shown_not_of_what_is_held(
    near: NearCache[str],
) -> None:
    """Whoever saw the newest must not be shown, by the token, what is older."""
    near.put(ACME, (), 100.0, answered(0.0, FIRST, newest=(FIRST, SECOND)), {"pump": "4 bar"})
    near.put(ACME, (), 100.0, answered(0.0, FIRST), {"fan": "on"})
    found = near.get(ACME, ["pump", "fan"], (), EVENTUAL)
    assert found is not None
    assert found[1].positions == (FIRST, SECOND)
    assert near.get(ACME, ["pump"], (), wanted(Eventual(3.0, (SECOND,), b"t"))) is None


def test_each_tenant_each_attribute_and_each_entity_has_its_own(near: NearCache[str]) -> None:
    near.put(ACME, (), 100.0, answered(), {"pump": "4 bar"})
    near.put(GLOBEX, (), 100.0, answered(), {"pump": "9 bar"})
    near.put(ACME, ("speed",), 100.0, answered(), {"pump": "3 m/s"})
    assert [
        found and found[0]
        for found in (
            near.get(ACME, ["pump"], (), EVENTUAL),
            near.get(GLOBEX, ["pump"], (), EVENTUAL),
            near.get(ACME, ["pump"], ("speed",), EVENTUAL),
            near.get(GLOBEX, ["pump"], ("speed",), EVENTUAL),
            near.get(ACME, ["pump", "fan"], (), EVENTUAL),
        )
    ] == [["4 bar"], ["9 bar"], ["3 m/s"], None, None]


def test_of_several_entities_the_weakest_speaks_for_all(near: NearCache[str], clock: Clock) -> None:
    near.put(ACME, (), 100.0, answered(1.0), {"pump": "4 bar"})
    near.put(ACME, (), 100.2, answered(0.1, as_of=None), {"fan": "on"})
    clock.now = 100.3
    found = near.get(ACME, ["fan", "pump", "fan"], (), EVENTUAL)
    assert found is not None
    assert found[0] == ["on", "4 bar", "on"]
    assert found[1].lag_seconds == pytest.approx(1.3)
    assert found[1].as_of is None


def test_nothing_is_kept_where_that_is_switched_off(clock: Clock) -> None:
    near: NearCache[str] = NearCache(0, len, clock)
    near.put(ACME, (), 100.0, answered(), {"pump": "4 bar"})
    assert near.get(ACME, ["pump"], (), EVENTUAL) is None


def test_nothing_of_an_ended_history_is_given_again(near: NearCache[str], clock: Clock) -> None:
    """Not what was kept, nor what was asked for before and answered after."""
    near.put(ACME, (), clock.now, answered(), {"a": "old"})
    asked_at = clock.now
    near.forget()
    assert near.get(ACME, ["a"], (), EVENTUAL) is None
    near.put(ACME, (), asked_at, answered(), {"a": "old"})
    assert near.get(ACME, ["a"], (), EVENTUAL) is None
    clock.now += 0.1
    near.put(ACME, (), clock.now, answered(), {"a": "new"})
    found = near.get(ACME, ["a"], (), EVENTUAL)
    assert found is not None
    assert found[0] == ["new"]
