"""What the benchmarks send: the platform and its baseline must be given the same points."""

import struct

import numpy as np
import pytest

from atlas.ingest.v1 import ingest_service_pb2
from atlas_bench.copy_format import COLUMNS, copy_template
from atlas_bench.errors import BenchError
from atlas_bench.job import ClosedLoop, Job, OpenLoop, Request
from atlas_bench.workload import ATTRIBUTES, Shape, entity_values, write_templates

SMALL = Shape(tenants=2, entities=4, batch_points=40)
NOW_US = 1_790_000_000_000_000


def test_filled_templates_are_valid_requests_with_the_times_asked_for() -> None:
    written = 0
    for tenant, template in write_templates(SMALL):
        assert tenant in SMALL.tenant_keys
        times = NOW_US + np.arange(40, dtype=np.int64)
        request = ingest_service_pb2.WriteRequest.FromString(template.with_varints(times))
        assert [point.event_time_us for point in request.points] == times.tolist()
        assert all(point.WhichOneof("value") for point in request.points)
        assert len({(point.entity_key, point.attribute) for point in request.points}) == 40
        written += len(request.points)
    assert written == 2 * 4 * len(ATTRIBUTES)


def test_tenants_have_the_same_entities_with_different_values() -> None:
    assert entity_values(0, 1) == entity_values(0, 1)
    assert entity_values(0, 1) != entity_values(1, 1)


def test_copy_has_every_point_once_with_its_times() -> None:
    template = copy_template(SMALL, [11, 12])
    rows = 2 * 4 * len(ATTRIBUTES)
    times = np.arange(2 * rows, dtype=np.int64)
    decoded = decode_copy(template.with_big_endian(times))
    assert len(decoded) == rows
    keys = [struct.unpack(">iqi", b"".join(row[:3])) for row in decoded]  # type: ignore[arg-type]
    assert len(set(keys)) == rows
    assert {tenant for tenant, _, _ in keys} == {11, 12}
    assert [struct.unpack(">q", row[3] or b"")[0] for row in decoded] == times[::2].tolist()
    assert [struct.unpack(">q", row[4] or b"")[0] for row in decoded] == times[1::2].tolist()
    # Exactly one value each, in the column of its attribute's type.
    for number, row in enumerate(decoded):
        filled = [name for name, field in zip(COLUMNS, row, strict=True) if field is not None][6:]
        assert filled == [f"value_{ATTRIBUTES[number % len(ATTRIBUTES)].data_type}"]


def test_a_batch_holds_whole_entities() -> None:
    with pytest.raises(BenchError, match="multiple of 20"):
        Shape(batch_points=1_010)
    with pytest.raises(BenchError, match="multiple of 50"):
        Shape(entities=120)


@pytest.mark.parametrize("load", [OpenLoop(20.0, 5.0, 1), ClosedLoop(16, 5.0, 100)])
def test_a_job_survives_its_way_to_the_driver(load: OpenLoop | ClosedLoop) -> None:
    requests = (*(Request(*each) for each in write_templates(SMALL)), Request.fixed("t", b"body"))
    job = Job("127.0.0.1:1", "/a.B/C", requests, load, numbered=True)
    again = Job.from_json(job.to_json())
    assert again.load == load
    assert (again.target, again.method, again.numbered) == ("127.0.0.1:1", "/a.B/C", True)
    for one, other in zip(job.requests, again.requests, strict=True):
        assert one.tenant == other.tenant
        assert one.template.body == other.template.body
        assert one.template.offsets.tolist() == other.template.offsets.tolist()


def decode_copy(body: bytes) -> list[list[bytes | None]]:
    """Read binary COPY as its documentation has it."""
    rows, at = [], 19
    while (count := struct.unpack_from(">h", body, at)[0]) != -1:
        at += 2
        row: list[bytes | None] = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", body, at)
            at += 4
            row.append(None if length < 0 else body[at : at + length])
            at += max(length, 0)
        rows.append(row)
    assert at + 2 == len(body)
    return rows
