"""Keys: one slot per shard, shards evenly over the slots, no key of two tenants or two layouts."""

import pytest

from atlas_hotcache.layout import PLAIN, SLOTS, cluster_layouts, slot


def test_one_server_has_plain_keys() -> None:
    assert PLAIN.state_key == "cache:marks"
    assert PLAIN.entity_key(7, 42) == "entity:7:42"


@pytest.mark.parametrize("count", [1, 3, 16, 256])
def test_shards_are_spread_evenly(count: int) -> None:
    slots = [slot(layout.tag) for layout in cluster_layouts(count)]
    assert [number * count // SLOTS for number in slots] == list(range(count))


def test_all_keys_of_a_shard_have_its_tag() -> None:
    layout = cluster_layouts(16)[3]
    keys = [layout.state_key, layout.entity_key(3, 1), layout.entity_key(19, 2**60)]
    assert {key.split("{")[1].split("}")[0] for key in keys} == {layout.tag}
    assert len(set(keys)) == 3


def test_layouts_of_different_counts_share_no_key() -> None:
    """Two processes that are told different counts would move each other's marks."""
    counts = [PLAIN], cluster_layouts(1), cluster_layouts(8), cluster_layouts(16)
    keys = [layout.state_key for layouts in counts for layout in layouts]
    assert len(set(keys)) == len(keys)


def test_no_tenants_key_is_anothers() -> None:
    layout = cluster_layouts(2)[1]
    assert layout.entity_key(1, 11) != layout.entity_key(11, 1)
