"""How many entities a tenant may still make, by a clock that is moved by hand."""

from atlas_common.testing import FakeClock
from atlas_ingest.catalog.room import EntityRoom


class Counted:
    """A catalog of so many entities, and how often it was counted."""

    def __init__(self, entities: int) -> None:
        self.entities = entities
        self.counts = 0

    async def count(self) -> int:
        self.counts += 1
        return self.entities


async def left(room: EntityRoom, catalog: Counted, wanted: int, tenant_id: int = 1) -> int:
    return await room.left(tenant_id, wanted=wanted, most=100, count=catalog.count)


async def test_with_room_they_are_counted_once_a_minute() -> None:
    clock = FakeClock()
    room, catalog = EntityRoom(clock), Counted(10)
    assert await left(room, catalog, 5) == 90
    room.made(1, 5)
    assert await left(room, catalog, 5) == 85
    assert catalog.counts == 1
    clock.advance(60)
    assert await left(room, catalog, 5) == 90
    assert catalog.counts == 2


async def test_before_anything_is_refused_they_are_counted_once_a_second() -> None:
    clock = FakeClock()
    room, catalog = EntityRoom(clock), Counted(98)
    assert [await left(room, catalog, 5) for _ in range(3)] == [2, 2, 2]
    assert catalog.counts == 1
    clock.advance(1)
    catalog.entities = 90  # The operator made room.
    assert await left(room, catalog, 5) == 10
    assert catalog.counts == 2


async def test_tenants_are_counted_apart_and_nobody_has_less_than_no_room() -> None:
    room, full, empty = EntityRoom(FakeClock()), Counted(120), Counted(0)
    assert await left(room, full, 1) == 0
    assert await left(room, empty, 1, tenant_id=2) == 100
