"""The platform and what it is compared to must be given the same points, whichever way they go."""

import struct
from collections import Counter
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_bench.copy_format import COLUMNS, HEADER, TRAILER, WHOSE, copy_row, encode, whose
from atlas_bench.errors import BenchError
from atlas_bench.ingest.blocks import Block, joined
from atlas_bench.ingest.columnar import Columnar
from atlas_bench.ingest.fleet import ROUNDS, Fleet, Window
from atlas_bench.ingest.job import Ack, Door, WriteJob
from atlas_bench.ingest.rowwise import RowWise

from .binary_copy import decode_copy

SMALL = Fleet(tenants=2, entities=6, attribute_sets=2)
NOW_US = 1_790_000_000_000_000
Point = tuple[str, str, int, Any]


@pytest.mark.parametrize("points", [10, 40, 80, 240])
def test_the_batches_visit_every_series_of_every_tenant_equally_often(points: int) -> None:
    seen: Counter[tuple[int, int, int]] = Counter()
    for window in SMALL.windows(points):
        assert window.points == points
        for entity, _ in window.visits:
            for attribute in range(window.first_attribute, window.last_attribute):
                seen[window.tenant_index, entity, attribute] += 1
    assert len(seen) == SMALL.series == 2 * 6 * 40
    assert set(seen.values()) == {ROUNDS}


def test_an_entity_has_other_values_at_its_next_visit() -> None:
    """Else the projection would have nothing to change, and cost less than it does."""
    visits: dict[tuple[int, int], set[int]] = {}
    for window in Fleet(tenants=2).windows(20_000):
        for entity, profile in window.visits:
            visits.setdefault((window.tenant_index, entity), set()).add(profile)
    assert {len(profiles) for profiles in visits.values()} == {ROUNDS}


def test_a_fifth_of_the_attributes_is_hot_and_all_types_are_there() -> None:
    attributes = Fleet().attributes
    assert len(attributes) == len({attribute.name for attribute in attributes}) == 100
    assert sum(attribute.hot for attribute in attributes) == 20
    assert len({attribute.data_type for attribute in attributes}) == 7


def test_a_batch_is_whole_entities_or_an_equal_part_of_one() -> None:
    with pytest.raises(BenchError, match="multiple or a divisor of 40"):
        list(SMALL.windows(30))


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("points", [10, 80])
def test_rows_columns_and_copy_are_the_same_points(number: int, points: int) -> None:
    window = SMALL.window(1, number, points)
    times = NOW_US + np.arange(points, dtype=np.int64)
    rows = rowwise(window, times)
    assert len(rows) == points
    assert columnar(window, times) == rows
    assert copied(window, times) == rows


def test_a_job_survives_its_way_to_the_driver() -> None:
    job = WriteJob("127.0.0.1:1", Door.ARROW, Ack.STAGED, SMALL, 80, 4, 1.5, points_max=7)
    assert WriteJob.from_json(job.to_json()) == job


def rowwise(window: Window, times: np.ndarray[Any, Any]) -> list[Point]:
    """Points as a WriteRequest has them."""
    body = RowWise(SMALL).batch(window).with_varints(times)
    points = pb.WriteRequest.FromString(body).points
    found = []
    for point in points:
        kind = str(point.WhichOneof("value"))
        value = getattr(point, kind)
        if kind == "decimal_value":
            value = Decimal(value)
        elif kind == "time_value":
            value = value.ToMicroseconds()
        found.append((point.entity_key, point.attribute, point.event_time_us, value))
    return found


def columnar(window: Window, times: np.ndarray[Any, Any]) -> list[Point]:
    """Points as a WriteArrowRequest has them."""
    request = pb.WriteArrowRequest.FromString(Columnar(SMALL).batch(window).with_times(times))
    table = pa.ipc.open_stream(request.ipc_stream).read_all()
    found: list[Point] = []
    for row in table.to_pylist():
        values = [
            value for name, value in row.items() if name.endswith("_value") and value is not None
        ]
        (value,) = values
        moment = table.column("event_time").cast(pa.int64())[len(found)].as_py()
        if isinstance(value, datetime):
            value = round(value.timestamp() * 1_000_000)
        found.append((row["entity_key"], row["attribute"], moment, value))
    return found


def copied(window: Window, times: np.ndarray[Any, Any]) -> list[Point]:
    """Points as the baseline's COPY has them; values are compared in the form of the wire."""
    pieces: dict[int, Block] = {}
    for _, profile in window.visits:
        values = zip(SMALL.attributes, SMALL.profile(profile), strict=True)
        pieces[profile] = Block.of(
            [copy_row(number, each.data_type, value) for number, (each, value) in enumerate(values)]
        ).cut(window.first_attribute, window.last_attribute)
    template = joined(
        [(pieces[profile], whose(7, entity)) for entity, profile in window.visits],
        WHOSE,
        head=HEADER,
        tail=TRAILER,
    )
    body = template.with_big_endian(np.repeat(times, 2))
    found = []
    profiles = dict(window.visits)
    for row in decode_copy(body):
        tenant, entity, attribute_id = struct.unpack(">iqi", b"".join(row[:3]))  # type: ignore[arg-type]
        assert tenant == 7
        attribute = SMALL.attributes[attribute_id]
        filled = [name for name, one in zip(COLUMNS, row, strict=True) if one is not None][6:]
        assert filled == [f"value_{attribute.data_type}"]
        value = SMALL.profile(profiles[entity])[attribute_id]
        assert row[COLUMNS.index(filled[0])] == encode(attribute.data_type, value)
        shown: Any = round(value.timestamp() * 1e6) if isinstance(value, datetime) else value
        (moment,) = struct.unpack(">q", row[3] or b"")
        found.append((SMALL.entity_keys[entity], attribute.name, moment, shown))
    return found
