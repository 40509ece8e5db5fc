"""Logs and spans of a process, as lines of JSON."""

import asyncio
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

from atlas_common import telemetry
from atlas_common.call import request_context
from atlas_common.config import TelemetryConfig
from atlas_common.tenant import Tenant, tenant_context
from atlas_devstack.collector import collecting


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_log_line_tells_who_and_within_what(capsys: pytest.CaptureFixture[str]) -> None:
    log = telemetry.logger("a.module")  # Made before the set-up, as at import.
    with telemetry.setup("query", TelemetryConfig(), instance="query-1"):
        with (
            telemetry.tracer.start_as_current_span("work") as span,
            tenant_context(Tenant(1, "acme")),
            request_context("r-1"),
        ):
            log.info("flushed", rows=10)
        log.debug("not at this level")
    (line,) = lines(capsys.readouterr().err)
    assert line.pop("time").endswith("Z")
    context = span.get_span_context()
    assert line == {
        "level": "info",
        "event": "flushed",
        "module": "a.module",
        "service": "query",
        "instance": "query-1",
        "tenant": "acme",
        "request_id": "r-1",
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
        "rows": 10,
    }


def test_the_first_line_tells_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with telemetry.setup("query", TelemetryConfig(), settings={"rpc": {"port": 7000}}):
        pass
    (line,) = lines(capsys.readouterr().err)
    assert (line["event"], line["settings"]) == ("settings", {"rpc": {"port": 7000}})


def test_libraries_log_lines_have_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    with telemetry.setup("query", TelemetryConfig(), instance="q"):
        logging.getLogger("some.library").warning("trouble %d", 7)
        logging.getLogger("psycopg.pool").info("too much to tell")
    (line,) = lines(capsys.readouterr().err)
    assert (line["event"], line["level"], line["service"]) == ("trouble 7", "warning", "query")
    assert line["logger"] == "some.library"
    assert logging.getLogger().handlers == before


async def test_the_lines_of_a_turn_of_the_loop_are_written_at_its_end_in_their_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with telemetry.setup("query", TelemetryConfig()):
        log = telemetry.logger("a")
        log.info("one")
        await asyncio.to_thread(log.info, "two, of a thread")  # The turn ends meanwhile.
        log.info("three")
        logging.getLogger("somebody").warning("four")
        assert len(capsys.readouterr().err.splitlines()) == 2
        await asyncio.sleep(0)
        rest = capsys.readouterr().err.splitlines()
        assert [json.loads(line)["event"] for line in rest] == ["three", "four"]
        log.info("five")
    assert json.loads(capsys.readouterr().err)["event"] == "five"


def test_lines_are_written_in_every_loop_and_without_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def leaves_a_line(event: str) -> None:
        log.info(event)
        raise SystemExit  # The loop ends within the turn.

    with telemetry.setup("query", TelemetryConfig()):
        log = telemetry.logger("a")
        for event in ("one", "two"):
            with pytest.raises(SystemExit):
                asyncio.run(leaves_a_line(event))
        log.info("three")
        lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["one", "two", "three"]


def test_exceptions_are_structured_and_hold_no_local_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    password = "hunter2"
    with telemetry.setup("query", TelemetryConfig()):
        try:
            "".index(password)
        except ValueError:
            telemetry.logger("m").exception("it failed")
            logging.getLogger("library").exception("it failed")
    err = capsys.readouterr().err
    for line in lines(err):
        (exception,) = line["exception"]
        assert exception["exc_type"] == "ValueError"
        assert exception["frames"][-1]["name"].startswith("test_exceptions_are_structured")
    assert "hunter2" not in err


def test_spans_go_to_the_file_with_parents_and_attributes(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    config = TelemetryConfig(spans_file=str(path))
    for instance in ("one", "two"):  # A process may set telemetry up again.
        with (
            telemetry.setup("query", config, instance=instance),
            telemetry.tracer.start_as_current_span("outer"),
            telemetry.tracer.start_as_current_span("inner", attributes={"rows": 3}),
        ):
            pass
    spans = lines(path.read_text())
    assert [(span["instance"], span["name"]) for span in spans] == [
        ("one", "inner"),
        ("one", "outer"),
        ("two", "inner"),
        ("two", "outer"),
    ]
    inner, outer = spans[:2]
    assert inner["parent_id"] == outer["span_id"]
    assert inner["trace_id"] == outer["trace_id"]
    assert inner["attributes"] == {"rows": 3}
    assert inner["end_ns"] >= inner["start_ns"]


def test_after_the_block_nothing_is_exported(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    with telemetry.setup("query", TelemetryConfig(spans_file=str(path))):
        pass
    with telemetry.tracer.start_as_current_span("late"):
        pass
    assert path.read_text() == ""


def test_instruments_work_without_a_collector() -> None:
    telemetry.metrics.counter("atlas.test.count", "1", "For a test.").add(1, {"kind": "x"})
    telemetry.metrics.histogram("atlas.test.time", "s", "For a test.").record(0.5)
    telemetry.metrics.up_down_counter("atlas.test.depth", "1", "For a test.").add(-1)
    telemetry.metrics.gauge("atlas.test.size", "1", "For a test.", lambda: {"a": 1.0})


# In a process of its own: OpenTelemetry takes one meter provider and one resource per process.
EXPORTING = """
import sys
from atlas_common import telemetry
from atlas_common.config import TelemetryConfig

with telemetry.setup("query", TelemetryConfig(otlp_endpoint=sys.argv[1]), instance="query-1"):
    telemetry.metrics.counter("atlas.test.count", "1", "For a test.").add(1)
    with telemetry.tracer.start_as_current_span("work"):
        pass
"""


def test_spans_and_metrics_reach_a_collector_before_the_process_ends() -> None:
    with collecting() as collector:
        subprocess.run([sys.executable, "-c", EXPORTING, collector.endpoint], check=True)
    for exported, name in ((collector.spans, "work"), (collector.metrics, "atlas.test.count")):
        (resource,) = [resource for resource, exported_name in exported if exported_name == name]
        assert resource["service.name"] == "query"
        assert resource["service.namespace"] == "atlas"
        assert resource["service.instance.id"] == "query-1"


def test_a_collector_that_is_away_delays_the_end_by_seconds_at_most() -> None:
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", EXPORTING, "http://127.0.0.1:9"], check=True)
    assert time.monotonic() - started < 10


# As above.
MEASURING = """
import sys
from atlas_common import telemetry
from atlas_common.breaker import Breaker
from atlas_common.config import TelemetryConfig
from atlas_common.telemetry.breakers import show_breakers

breaker = Breaker(failures_max=1, open_seconds=60)
show_breakers(lambda: {"away": breaker, "well": Breaker()})
telemetry.metrics.counter("atlas.test.never", "1", "For a test.")
telemetry.metrics.up_down_counter("atlas.test.idle", "1", "For a test.")
with telemetry.setup("query", TelemetryConfig(otlp_endpoint=sys.argv[1]), instance="query-1"):
    breaker.failure(breaker.allow())
    telemetry.metrics.histogram("atlas.test.time", "s", "For a test.").record(0.3)
"""


def test_what_never_happened_is_nought_and_seconds_have_buckets_of_their_size() -> None:
    with collecting() as collector:
        subprocess.run([sys.executable, "-c", MEASURING, collector.endpoint], check=True)
    for name in ("atlas.test.never", "atlas.test.idle"):
        (point,) = collector.points[name]
        assert point.as_int == 0
    (time_,) = collector.points["atlas.test.time"]
    assert time_.explicit_bounds[list(time_.bucket_counts).index(1)] == 0.5
    assert {
        point.attributes[0].value.string_value: point.as_double
        for point in collector.points["atlas.breaker.open"]
    } == {"away": 1.0, "well": 0.0}
