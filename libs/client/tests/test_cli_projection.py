"""atlas projection: exit codes, JSON and progress, against a real server in this process."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas.hotcache.v1 import projection_service_pb2_grpc
from atlas_client.cli.root import build

from .client_rig import Refusal

# ruff: noqa: N802 - methods have the names of the contracts' calls.

PROMOTING = ("pin", "report", "decisions")
RUNNING, DONE = pb.PROJECTION_JOB_STATE_RUNNING, pb.PROJECTION_JOB_STATE_DONE


@dataclass
class Jobs(projection_service_pb2_grpc.ProjectionServiceServicer):
    """Answers each look at a job with the next of its lives."""

    lives: list[pb.ProjectionJob] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    refusal: Refusal | None = None
    decisions: list[pb.PromotionDecision] = field(default_factory=list)
    indexes: list[pb.AttributeIndex] = field(default_factory=list)

    async def IndexAttribute(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return pb.IndexAttributeResponse(index=self.indexes[0])

    async def DropAttributeIndex(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return pb.DropAttributeIndexResponse(index=self.indexes[0])

    async def GetAttributeIndex(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        if len(self.indexes) > 1:
            self.indexes.pop(0)
        elif self.indexes[0].state == pb.ATTRIBUTE_INDEX_STATE_DROPPING:
            await Refusal(grpc.StatusCode.NOT_FOUND, "JOB_UNKNOWN", "no index").abort(context)
        return pb.GetAttributeIndexResponse(index=self.indexes[0])

    async def ListAttributeIndexes(self, request: Any, context: Any) -> Any:
        return pb.ListAttributeIndexesResponse(indexes=self.indexes)

    async def _begin(self, request: Any, context: Any) -> pb.ProjectionJob:
        if self.refusal is not None:
            await self.refusal.abort(context)
        self.requests.append(request)
        return self.lives[0]

    async def PromoteAttribute(self, request: Any, context: Any) -> Any:
        return pb.PromoteAttributeResponse(job=await self._begin(request, context))

    async def DemoteAttribute(self, request: Any, context: Any) -> Any:
        return pb.DemoteAttributeResponse(job=await self._begin(request, context))

    async def RebuildProjection(self, request: Any, context: Any) -> Any:
        return pb.RebuildProjectionResponse(job=await self._begin(request, context))

    async def VerifyProjection(self, request: Any, context: Any) -> Any:
        return pb.VerifyProjectionResponse(job=await self._begin(request, context))

    async def GetProjectionJob(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return pb.GetProjectionJobResponse(
            job=self.lives.pop(0) if len(self.lives) > 1 else self.lives[0]
        )

    async def ListProjectionJobs(self, request: Any, context: Any) -> Any:
        return pb.ListProjectionJobsResponse(jobs=self.lives)

    async def PinAttribute(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return pb.PinAttributeResponse(pin=request.pin, hot=False)

    async def GetPromotionReport(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        standing = pb.AttributeStanding(
            attribute="serial",
            read_count=900,
            refused_filter_count=7,
            figures=pb.PromotionFigures(promote_score=3.25, hours=24),
            action=pb.PROMOTION_ACTION_PROMOTE,
            why="score 3.25 reaches 2",
        )
        return pb.GetPromotionReportResponse(
            mode=pb.PROMOTION_MODE_DRY_RUN, hot_count=2, hot_max=50, attributes=[standing]
        )

    async def ListPromotionDecisions(self, request: Any, context: Any) -> Any:
        before = request.before_decision_id or len(self.decisions) + 1
        older = [one for one in self.decisions if one.decision_id < before]
        return pb.ListPromotionDecisionsResponse(decisions=older[: request.page_size])

    async def CancelProjectionJob(self, request: Any, context: Any) -> Any:
        return pb.CancelProjectionJobResponse(job=await self._begin(request, context))


def job(state: int = DONE, **fields: Any) -> pb.ProjectionJob:
    fields = {"kind": pb.PROJECTION_JOB_KIND_PROMOTE, "attribute": "serial", **fields}
    return pb.ProjectionJob(job_id=7, state=state, **fields)  # type: ignore[arg-type]


@dataclass
class Cli:
    jobs: Jobs
    target: str

    def run(self, *arguments: str, code: int = 0) -> Any:
        options = ["--hotcache", self.target, "--tenant", "acme"]
        result = CliRunner().invoke(build(), ["projection", *arguments, *options])
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
def cli() -> Iterator[Cli]:
    jobs, bound, done = Jobs(), threading.Event(), threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        server = grpc.aio.server()
        projection_service_pb2_grpc.add_ProjectionServiceServicer_to_server(jobs, server)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        bound.set()
        await asyncio.to_thread(done.wait)
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert bound.wait(10)
        yield Cli(jobs, f"127.0.0.1:{ports[0]}")
    finally:
        done.set()
        thread.join(10)


def test_a_promotion_is_followed_to_its_end(cli: Cli) -> None:
    cli.jobs.lives = [
        job(RUNNING, step="fill", entities_done=10, entities_total=40),
        job(RUNNING, step="settle", message="waits for the cache to be told"),
        job(DONE, step="end", entities_changed=40),
    ]
    result = cli.run("promote", "serial")
    assert "fill, 10 of about 40 entities" in result.stderr
    assert "settle" in result.stderr
    assert "waits for the cache" in result.stderr
    assert "changed 40 entities" in result.stderr
    assert cli.jobs.requests[0].attribute == "serial"


def test_with_json_stdout_is_the_job_alone(cli: Cli) -> None:
    cli.jobs.lives = [job(DONE, dry_run=True, point_count=12, byte_count=100)]
    answer = json.loads(cli.run("demote", "serial", "--dry-run", "--json").stdout)
    assert (answer["state"], answer["point_count"], answer["dry_run"]) == ("done", 12, True)
    assert cli.jobs.requests[0].dry_run


def test_detached_it_does_not_wait(cli: Cli) -> None:
    cli.jobs.lives = [job(RUNNING, step="drain")]
    result = cli.run("rebuild", "pump-1", "--detach")
    assert "atlas projection jobs 7 --follow" in result.stderr
    assert list(cli.jobs.requests[0].entity_keys) == ["pump-1"]
    assert cli.jobs.requests[0].request_id


@pytest.mark.parametrize(("repaired", "code"), [(0, 1), (1, 1), (2, 0)])
def test_verify_exits_with_1_as_long_as_something_differs(
    cli: Cli, repaired: int, code: int
) -> None:
    different = pb.ProjectionDifference(
        place=pb.ProjectionDifference.PLACE_CACHE,
        kind=pb.ProjectionDifference.KIND_OLDER,
        entity_key="pump-1",
        attribute="serial",
        expected='"b"',
        found='"a"',
    )
    cli.jobs.lives = [
        job(
            DONE,
            kind=pb.PROJECTION_JOB_KIND_VERIFY,
            missing_count=1,
            cache_count=1,
            repaired_count=repaired,
            differences=[different],
        )
    ]
    result = cli.run("verify", "--repair", "--sample", "10", code=code)
    assert "cache" in result.stdout
    assert "pump-1" in result.stdout
    assert cli.jobs.requests[0].sample_percent == 10
    assert cli.jobs.requests[0].repair


def test_a_dry_run_of_verify_repairs_nothing(cli: Cli) -> None:
    cli.jobs.lives = [job(DONE, kind=pb.PROJECTION_JOB_KIND_VERIFY)]
    cli.run("verify", "--repair", "--dry-run")
    assert not cli.jobs.requests[0].repair


def test_a_failed_job_and_a_refusal_exit_with_1(cli: Cli) -> None:
    cli.jobs.lives = [job(pb.PROJECTION_JOB_STATE_FAILED, message="gave up")]
    assert "gave up" in cli.run("promote", "serial", code=1).stderr
    cli.jobs.refusal = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "JOB_CONFLICT", "job 6 is")
    assert "JOB_CONFLICT" in cli.run("promote", "serial", code=1).stderr


def test_jobs_are_listed_shown_and_cancelled(cli: Cli) -> None:
    cli.jobs.lives = [job(DONE), job(RUNNING, step="fill")]
    assert len(json.loads(cli.run("jobs", "--json").stdout)) == 2
    cli.jobs.lives = [job(RUNNING, step="fill")]
    assert "fill" in cli.run("jobs", "7").stdout
    cli.jobs.lives = [job(pb.PROJECTION_JOB_STATE_CANCELLED)]
    assert "cancelled" in cli.run("cancel", "7").stdout
    assert cli.jobs.requests[-1].job_id == 7


BUILDING, READY = pb.ATTRIBUTE_INDEX_STATE_BUILDING, pb.ATTRIBUTE_INDEX_STATE_READY
DROPPING, GONE_WRONG = pb.ATTRIBUTE_INDEX_STATE_DROPPING, pb.ATTRIBUTE_INDEX_STATE_FAILED


def an_index(state: "pb.AttributeIndexState.ValueType", **fields: Any) -> pb.AttributeIndex:
    return pb.AttributeIndex(attribute="serial", state=state, **fields)


def test_an_index_is_followed_until_it_is_ready(cli: Cli) -> None:
    cli.jobs.indexes = [
        an_index(BUILDING),
        an_index(BUILDING, partitions_done=3, partition_count=9, message="creates x"),
        an_index(READY, partitions_done=9, partition_count=9),
    ]
    result = cli.run("index", "serial")
    assert "building, 3 of 9 partitions, creates x" in result.stderr
    assert "ready" in result.stdout
    assert all(request.attribute == "serial" for request in cli.jobs.requests)
    assert json.loads(cli.run("indexes", "--json").stdout)[0]["state"] == "ready"


def test_an_index_is_followed_until_it_is_gone(cli: Cli) -> None:
    cli.jobs.indexes = [an_index(DROPPING, partitions_done=1, partition_count=2)]
    assert json.loads(cli.run("drop-index", "serial", "--json").stdout)["state"] == "none"
    assert "it goes on" in cli.run("drop-index", "serial", "--detach").stderr


def test_an_index_that_failed_exits_with_1(cli: Cli) -> None:
    cli.jobs.indexes = [an_index(GONE_WRONG, message="gave up: disk full")]
    assert "gave up: disk full" in cli.run("index", "serial", code=1).stderr


def test_a_dry_run_of_an_index_tells_its_cost(cli: Cli) -> None:
    cli.jobs.indexes = [
        pb.AttributeIndex(
            attribute="serial",
            partition_count=9,
            scanned_point_estimate=5_000,
            indexed_point_estimate=700,
        )
    ]
    result = cli.run("index", "serial", "--dry-run", "--json")
    assert json.loads(result.stdout)["indexed_point_estimate"] == 700
    assert "about 5,000 points of 9 partitions and hold about 700" in result.stderr
    assert cli.jobs.requests[0].dry_run


@pytest.mark.parametrize(
    ("how", "number", "hint"),
    [
        ("hot", pb.ATTRIBUTE_PIN_HOT, "atlas projection promote serial"),
        ("cold", pb.ATTRIBUTE_PIN_COLD, ""),
        ("none", pb.ATTRIBUTE_PIN_NONE, ""),
    ],
)
def test_a_pin_tells_what_it_does_not_do(cli: Cli, how: str, number: int, hint: str) -> None:
    result = cli.run("pin", "serial", how, "--reason", "on the wall")
    assert hint in result.stderr
    assert bool(hint) is ("until" in result.stderr)
    request = cli.jobs.requests[0]
    assert (request.attribute, request.pin, request.reason) == ("serial", number, "on the wall")
    answer = json.loads(cli.run("pin", "serial", how, "--json").stdout)
    assert answer == {"attribute": "serial", "pin": how, "is_hot": False}
    cli.run("pin", "serial", "warm", code=2)


def test_the_report_is_a_table_or_json(cli: Cli) -> None:
    result = cli.run("report", "--limit", "7")
    assert "score 3.25 reaches 2" in result.stdout
    assert "promotion is dry_run; 2 of at most 50" in result.stderr
    assert cli.jobs.requests[0].page_size == 7
    answer = json.loads(cli.run("report", "--json").stdout)
    (one,) = answer["attributes"]
    assert (answer["mode"], one["action"], one["refused_filter_count"]) == ("dry_run", "promote", 7)
    assert one["figures"]["promote_score"] == 3.25


def test_decisions_are_listed_over_pages(cli: Cli) -> None:
    cli.jobs.decisions = [
        pb.PromotionDecision(
            decision_id=number,
            actor=pb.PromotionDecision.ACTOR_POLICY,
            action=pb.PROMOTION_ACTION_DEMOTE,
            attribute="state",
            outcome=pb.PromotionDecision.OUTCOME_REFUSED,
            why="a job is in the way",
        )
        for number in range(120, 0, -1)
    ]
    result = cli.run("decisions")
    assert "a job is in the way" in result.stdout
    assert len(json.loads(cli.run("decisions", "--json").stdout)) == 20
    found = json.loads(cli.run("decisions", "--json", "--limit", "1000").stdout)
    assert [one["decision_id"] for one in found] == list(range(120, 0, -1))
    assert (found[0]["actor"], found[0]["action"], found[0]["outcome"]) == (
        "policy",
        "demote",
        "refused",
    )


def test_every_command_has_an_example(cli: Cli) -> None:
    jobs = ("promote", "demote", "rebuild", "verify", "jobs", "cancel")
    for name in (*jobs, *PROMOTING, "index", "drop-index", "indexes"):
        result = CliRunner().invoke(build(), ["projection", name, "--help"])
        assert "Example: atlas projection" in result.output
