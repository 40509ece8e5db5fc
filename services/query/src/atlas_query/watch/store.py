"""The questions of a look. Every function runs in the snapshot and for the tenant it is given."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from atlas_common.db import ReadConnection
from atlas_common.values import us_to_datetime
from atlas_query.store import Q
from atlas_query.watch.change import NOTHING, Change, Pair, Rank

PAIRS_AT_A_TIME = 1_000
"""As many as are put together at once: other calls wait meanwhile."""


async def changes(
    connection: ReadConnection,
    tenant_id: int,
    known: Mapping[Pair, Rank],
    floor: datetime | None,
    rows_max: int,
) -> list[Change] | None:
    """The points that outrank what is known, stamped at the floor or later, in no order.

    None: there are more than `rows_max`.
    """
    found: list[Change] = []
    for pairs in _portions(known):
        parameters = {
            **_pairs(tenant_id, pairs),
            "event_times": _array(_time(known[pair].event_us) for pair in pairs),
            "stamps": _array(_time(known[pair].stamped_us) for pair in pairs),
            "places": _array(f'"({known[pair].block},{known[pair].offset})"' for pair in pairs),
            "floor": floor or "-infinity",
            "rows_max": rows_max - len(found) + 1,
        }
        cursor = await connection.execute(Q["watch_changes"], parameters)
        found += [_change(row) for row in await cursor.fetchall()]
        if len(found) > rows_max:
            return None
    return found


async def latest(connection: ReadConnection, tenant_id: int, pairs: Iterable[Pair]) -> list[Change]:
    """The newest point of each."""
    found: list[Change] = []
    for portion in _portions(pairs):
        cursor = await connection.execute(Q["watch_latest"], _pairs(tenant_id, portion))
        found += [_change(row) for row in await cursor.fetchall()]
    return found


async def ranks_before(
    connection: ReadConnection, tenant_id: int, pairs: Iterable[Pair], floor: datetime
) -> dict[Pair, Rank]:
    """What was the newest point of each, by those stamped before the floor."""
    known = dict.fromkeys(pairs, NOTHING)
    for portion in _portions(known):
        parameters = {**_pairs(tenant_id, portion), "floor": floor}
        cursor = await connection.execute(Q["watch_ranks_before"], parameters)
        known.update({(row[0], row[1]): _rank(*row[2:5]) for row in await cursor.fetchall()})
    return known


def _portions(pairs: Iterable[Pair]) -> Iterable[list[Pair]]:
    # In the order of the index: neighbours share its pages.
    ordered = sorted(pairs)
    for begin in range(0, len(ordered), PAIRS_AT_A_TIME):
        yield ordered[begin : begin + PAIRS_AT_A_TIME]


def _pairs(tenant_id: int, pairs: Sequence[Pair]) -> dict[str, Any]:
    return {
        "tenant_id": tenant_id,
        "entity_ids": _array(entity_id for entity_id, _ in pairs),
        "attribute_ids": _array(attribute_id for _, attribute_id in pairs),
    }


def _array(items: Iterable[int | str]) -> str:
    """An array as text: psycopg takes three times as long, and there are many, ten times a second.

    Only numbers and times enter it, which need no quotes, and places in theirs.
    """
    return "{" + ",".join(map(str, items)) + "}"


def _time(us: int) -> str:
    return "-infinity" if us == NOTHING.event_us else us_to_datetime(us).isoformat()


def _change(row: Sequence[Any]) -> Change:
    entity_id, attribute_id, event_us, stamped_us, place, quality, *values = row
    return Change(
        (entity_id, attribute_id), _rank(event_us, stamped_us, place), quality, tuple(values)
    )


def _rank(event_us: int, stamped_us: int, place: str) -> Rank:
    block, offset = place.strip("()").split(",")
    return Rank(event_us, stamped_us, int(block), int(offset))
