"""What the read benchmark writes before it reads."""

import numpy as np
import pytest

from atlas.ingest.v1 import ingest_service_pb2
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
