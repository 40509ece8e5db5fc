"""What is made of runs of reads, and what is sent to make them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from atlas.query.v1 import query_service_pb2 as pb
from atlas_bench import profiling
from atlas_bench.errors import BenchError
from atlas_bench.loops import run_open
from atlas_bench.read.answers import remarks, shares
from atlas_bench.read.estate import HOUR_US, MINUTE_US, Estate
from atlas_bench.read.job import ClosedLoop, Door, OpenLoop, ReadJob
from atlas_bench.read.options import SCENARIOS, chosen_options
from atlas_bench.read.questions import PAGE_SIZE, Questions
from atlas_bench.read.targets import TARGETS
from atlas_bench.tally import Outcome
from atlas_bench.targets import verdicts

from .virtual_time import run_in_virtual_time

ESTATE = Estate(entities=10_000)
BASE_US = 1_790_000_040_000_000
QUESTIONS = Questions(ESTATE, BASE_US, "replica", variants=50)


@pytest.mark.parametrize("load", [OpenLoop(20.0, 5.0, 1), ClosedLoop(16, 5.0, 100)])
def test_a_job_survives_its_way_to_the_driver(load: OpenLoop | ClosedLoop) -> None:
    door = Door("127.0.0.1:1", ca_file="ca.pem", token="x.y.z")
    job = ReadJob(door, "/a.B/C", "acme", (b"\x00one", b"two"), load, streaming=True)
    assert ReadJob.from_json(job.to_json()) == job


def test_a_stream_is_answered_by_its_first_message() -> None:
    async def call(_index: int) -> Outcome:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.01)
        first_at = loop.time()
        await asyncio.sleep(0.5)
        return Outcome(answer_bytes=7, answered_at=first_at)

    tally = run_in_virtual_time(run_open([0.1, 0.2], call, spin_seconds=0))
    summary = tally.summary()
    assert summary["latency_ms"]["max"] == pytest.approx(10, rel=0.02)
    assert summary["answer_bytes"] == [7, 7]


def test_answers_of_different_sizes_show() -> None:
    async def call(index: int) -> Outcome:
        return Outcome(answer_bytes=(9, 3, 5)[index])

    tally = run_in_virtual_time(run_open([0.1, 0.2, 0.3], call, spin_seconds=0))
    assert tally.summary()["answer_bytes"] == [3, 9]


def test_a_history_is_an_hour_within_what_is_followed() -> None:
    start = ESTATE.followed_start_us(BASE_US)
    end = start + ESTATE.followed_minutes * MINUTE_US
    for body in QUESTIONS.history().requests:
        request = pb.GetHistoryRequest.FromString(body)
        first, last = (each.ToMicroseconds() for each in (request.start_time, request.end_time))
        assert last - first == HOUR_US
        assert start <= first < last <= end
        assert ESTATE.entity_keys.index(request.entity_key) < ESTATE.followed


def test_a_cold_question_is_about_an_attribute_that_the_entity_has() -> None:
    for body in QUESTIONS.cold().requests:
        request = pb.GetEntitiesRequest.FromString(body)
        number = ESTATE.entity_keys.index(request.entity_keys[0])
        layer = ESTATE.newest(number, number + 1, BASE_US)
        names = {ESTATE.attributes[int(each)].name for each in layer.attributes}
        assert set(request.attributes) <= names


def test_batch_and_single_ask_for_the_same_entities() -> None:
    (batch,) = (pb.GetEntitiesRequest.FromString(body) for body in QUESTIONS.batch(100).requests)
    single = [pb.GetEntitiesRequest.FromString(body) for body in QUESTIONS.single(100).requests]
    assert [list(each.entity_keys) for each in single] == [[key] for key in batch.entity_keys]
    assert QUESTIONS.filter().entities == PAGE_SIZE


def test_what_the_cache_did_not_answer_is_said() -> None:
    hot = {"kind": "hot", "wanted_source": "cache", "calls_failed": 0}
    good: dict[str, Any] = {**hot, "sources": {"cache": 999, "primary": 1}}
    bad: dict[str, Any] = {**hot, "sources": {"cache": 1, "primary": 999}}
    assert remarks([good]) == []
    assert remarks([good, bad]) == [
        "hot was to be answered by cache: 50.0% were (1000 cache, 1000 primary)"
    ]
    assert shares([good, bad]) == {"hot": {"cache": 0.5, "primary": 0.5}}


def test_failed_calls_and_a_load_that_broke_off_are_said() -> None:
    failed: dict[str, Any] = {"kind": "eav", "calls_failed": 3}
    beside: dict[str, Any] = {"kind": "hot_under_ingest", "ingest_to_the_end": False}
    assert remarks([failed, beside]) == [
        "3 calls of eav FAILED",
        "the load of ingest ended before hot_under_ingest did",
    ]


def test_every_target_is_of_a_result_that_there_is() -> None:
    result = {
        "ratios": {"hot_vs_echo": 0.7, "batch_vs_single": 9.9, "filter_vs_eav": 25.0},
        "latency_ms": {"hot_p99": 10.0, "router_overhead_p50": 1.01},
    }
    found = {name: verdict["met"] for name, verdict in verdicts(TARGETS, result).items()}
    assert found == {
        "ratios.hot_vs_echo": True,
        "ratios.batch_vs_single": False,
        "ratios.filter_vs_eav": True,
        "latency_ms.hot_p99": True,
        "latency_ms.router_overhead_p50": False,
    }


def test_quick_does_all_but_the_load_of_ingest() -> None:
    assert chosen_options(quick=True).only == SCENARIOS[:-2]
    assert chosen_options(only="hot, cold").only == ("hot", "cold")
    assert chosen_options(quick=True, repeats=7).repeats == 7
    with pytest.raises(BenchError, match="no scenario is called tepid"):
        chosen_options(only="tepid")


def test_the_samplers_directory_is_where_it_is_looked_for() -> None:
    path = profiling.environment(Path("samples"))["PYTHONPATH"].split(":")[0]
    assert (Path(path) / "sitecustomize.py").is_file()
