"""What callers ask for is counted right on average, within bounds, whatever their rhythm."""

from collections import Counter
from random import Random

import pytest

from atlas_query.access.sampler import AccessSampler, Count

ACME, GLOBEX = 1, 2


def sampler(every: int = 1, names_max: int = 1_000, seed: int = 1) -> AccessSampler:
    return AccessSampler(every, names_max, Random(seed).random)


def reads(counts: list[Count]) -> Counter[tuple[int, str]]:
    return sum((Counter({(c.tenant_id, c.name): c.reads}) for c in counts), Counter())


def test_each_entity_and_each_name_counts() -> None:
    counting = sampler()
    counting.read(ACME, ("pressure", "state"), 3)
    counting.read(ACME, ("pressure",), 1)
    counting.read(GLOBEX, ("pressure", "pressure"), 5)
    counting.filter(ACME, ("state",))
    counts = list(counting.take())
    assert reads(counts) == {(ACME, "pressure"): 4, (ACME, "state"): 3, (GLOBEX, "pressure"): 5}
    assert [c for c in counts if c.filters] == [Count(ACME, "state", 0, 1)]
    assert list(counting.take()) == [], "what was taken is forgotten"


def test_no_names_are_whatever_is_hot_and_a_filter_over_nothing_is_none() -> None:
    counting = sampler()
    counting.read(ACME, (), 7)
    counting.filter(ACME, ())
    assert list(counting.take()) == [Count(ACME, "", 7, 0)]


@pytest.mark.parametrize("every", [2, 8, 64])
def test_a_part_of_the_calls_stands_for_all_of_them_in_whatever_rhythm_they_come(
    every: int,
) -> None:
    """Every eighth call is another's: one that counted each eighth would see one of them only."""
    counting = sampler(every)
    calls = 160_000
    for call in range(calls):
        counting.read(*((GLOBEX, ("b",)) if call % 8 == 0 else (ACME, ("a",))), 2)
    found = reads(list(counting.take()))
    assert found[GLOBEX, "b"] == pytest.approx(calls / 8 * 2, rel=0.2)
    assert found[ACME, "a"] == pytest.approx(calls * 7 / 8 * 2, rel=0.1)


def test_every_filter_counts_once() -> None:
    counting = sampler(1_000_000)
    for _ in range(3):
        counting.filter(ACME, ("state", "serial"))
    assert sorted(counting.take()) == [Count(ACME, "serial", 0, 3), Count(ACME, "state", 0, 3)]


def test_names_are_bounded_and_what_has_no_room_is_told() -> None:
    counting = sampler(names_max=10)
    for tenant in range(1, 100):
        counting.read(tenant, ("a", "b", "c"), 1)
    assert counting.dropped == 96
    counting.read(1, ("a", "b", "c"), 1)  # What is known has room.
    counts = list(counting.take())
    assert reads(counts)[1, "a"] == 2
    assert len(counts) == 9
    counting.read(50, ("a",), 1)
    assert (counting.dropped, reads(list(counting.take()))) == (0, {(50, "a"): 1})


def test_it_counts_at_least_one_call_in_some() -> None:
    with pytest.raises(ValueError, match="one call"):
        sampler(0)
