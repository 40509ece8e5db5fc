"""What the read benchmark stores, and what it expects to read."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from atlas_bench.errors import BenchError
from atlas_bench.read.columns import record_batch
from atlas_bench.read.estate import MATCHING, MEASURED, NEIGHBOUR, STATUS, TIER, Estate, Layer
from atlas_bench.read.values import STATUSES

SMALL = Estate(entities=2_000, followed=4, followed_minutes=70, past_rounds=2)
BASE_US = 1_790_000_040_000_000


def layers(estate: Estate) -> list[Layer]:
    """All of the measured tenant's."""
    half = estate.entities // 2
    return [
        *(estate.past(number, BASE_US) for number in range(estate.past_rounds, 0, -1)),
        *(estate.followed_minute(n, BASE_US) for n in range(estate.followed_minutes)),
        estate.newest(0, half, BASE_US),
        estate.newest(half, estate.entities, BASE_US),
    ]


def test_the_layers_are_all_points_each_of_its_own_time() -> None:
    seen: set[tuple[int, int, int]] = set()
    for layer in layers(SMALL):
        seen.update(
            zip(
                layer.entities.tolist(),
                layer.attributes.tolist(),
                layer.event_us.tolist(),
                strict=True,
            )
        )
    assert len(seen) == sum(layer.points for layer in layers(SMALL)) == SMALL.points
    neighbours = SMALL.neighbours(0, SMALL.entities, BASE_US)
    assert neighbours.points == SMALL.neighbour_points


def test_the_full_estate_is_ten_million_points() -> None:
    assert Estate().points == 10_000_000


def test_no_hot_attribute_has_an_older_point_than_its_newest() -> None:
    newest = {int(layer.event_us.max()) for layer in layers(SMALL)[:-2]}
    assert max(newest) < BASE_US


@pytest.mark.parametrize("entities", [2_000, 10_000, 100_000])
@pytest.mark.parametrize("tenant", [MEASURED, NEIGHBOUR])
def test_every_status_and_tier_has_a_page_of_entities(entities: int, tenant: int) -> None:
    estate = Estate(entities=entities)
    numbers = np.arange(entities)
    zeros = np.zeros(entities, dtype=np.int64)
    status, tier = (
        estate.raw(Layer(tenant, numbers, zeros + attribute, zeros, 0)).tolist()
        for attribute in (STATUS, TIER)
    )
    pairs = Counter(zip(status, tier, strict=True))
    assert len(pairs) == estate.tiers * len(STATUSES)
    assert set(pairs.values()) == {MATCHING}
    matching = estate.matching(tenant, 3, 0)
    assert [(status[number], tier[number]) for number in matching] == [(3, 0)] * MATCHING
    # Spread over all entities: they lie on no page of the table together.
    assert max(b - a for a, b in pairwise(matching)) < entities / 5


def test_the_tenants_have_other_entities_for_the_same_filter() -> None:
    assert SMALL.matching(MEASURED, 1, 0) != SMALL.matching(NEIGHBOUR, 1, 0)


@pytest.mark.parametrize("layer", [layers(SMALL)[0], layers(SMALL)[2], layers(SMALL)[-1]])
def test_a_batch_has_the_values_that_are_expected_of_its_points(layer: Layer) -> None:
    rows = record_batch(SMALL, layer).to_pylist()
    wanted = [
        (
            SMALL.entity_keys[entity],
            SMALL.attributes[attribute].name,
            SMALL.values.scalar(attribute, SMALL.attributes[attribute].data_type, raw),
        )
        for entity, attribute, raw in zip(
            layer.entities.tolist(),
            layer.attributes.tolist(),
            SMALL.raw(layer).tolist(),
            strict=True,
        )
    ]
    assert [(row["entity_key"], row["attribute"], the_value(row)) for row in rows] == wanted
    assert {round(row["event_time"].timestamp() * 1e6) for row in rows} == set(
        layer.event_us.tolist()
    )


def test_an_entity_has_a_fifth_of_the_cold_attributes_and_all_are_used() -> None:
    own = SMALL.cold_of(np.arange(5))
    assert own.shape == (5, SMALL.cold // 5)
    assert set(own.reshape(-1).tolist()) == set(range(SMALL.cold))
    names = [attribute.name for attribute in SMALL.attributes]
    assert len(set(names)) == len(names) == SMALL.hot + SMALL.cold
    assert sum(attribute.hot for attribute in SMALL.attributes) == SMALL.hot


def test_allowed_values_are_those_that_are_written() -> None:
    tier = SMALL.attributes[TIER]
    raw = SMALL.raw(SMALL.past(1, BASE_US))
    layer = SMALL.past(1, BASE_US)
    words = {
        SMALL.values.scalar(TIER, tier.data_type, int(value))
        for value, attribute in zip(raw, layer.attributes, strict=True)
        if attribute == TIER
    }
    assert words == set(tier.allowed_values)


def test_pages_must_come_out_even() -> None:
    with pytest.raises(BenchError, match="multiple of 2000"):
        Estate(entities=3_000)


def the_value(row: dict[str, Any]) -> Any:
    """The one that is there."""
    (value,) = (
        value for name, value in row.items() if name.endswith("_value") and value is not None
    )
    return value
