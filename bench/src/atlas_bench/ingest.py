"""`atlas bench ingest`: Write calls against raw COPY into the same table, turn by turn."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from atlas.ingest.v1 import ingest_service_pb2
from atlas_bench import baseline, machine, processor
from atlas_bench.job import ClosedLoop, Job, OpenLoop, Request
from atlas_bench.medians import medians, paired_ratio
from atlas_bench.processes import Driver
from atlas_bench.progress import say
from atlas_bench.target import Platform, prepare, running, settle
from atlas_bench.template import Template
from atlas_bench.workload import Shape, write_templates

_METHOD = "/atlas.ingest.v1.IngestService/Write"
_ACK_LEVELS = {
    "committed": ingest_service_pb2.ACK_LEVEL_COMMITTED,
    "durable": ingest_service_pb2.ACK_LEVEL_DURABLE,
}
_WARM_UP_SECONDS = 2.0
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class IngestOptions:
    """What is measured, how often, how long."""

    seconds: float = 5.0
    """Of each run."""
    repeats: int = 5
    callers: int = 16
    """Of the closed loop, which finds the throughput."""
    points_per_second: float = 20_000.0
    """Of the open loop, which finds the latency."""
    ack: str = "durable"
    shape: Shape = field(default_factory=Shape)


def measure(options: IngestOptions, state: Path | None) -> dict[str, Any]:
    """Run the benchmark; returns what --json prints. Raises BenchError."""
    with running(state) as platform, Driver.started() as driver:
        admin_dsn = platform.endpoints.primary
        facts = machine.facts(admin_dsn)
        ids = prepare(platform, options.shape)
        with baseline.opened(admin_dsn, options.shape, remove_rows=not platform.is_ours) as copying:
            runs, verified = _Rounds(options, platform, driver, copying, ids).all()
    return {"bench": "ingest", "machine": facts, **_results(options, runs), "verified": verified}


class _Rounds:
    """The runs, in turn: COPY, Write at full speed, Write at a fixed rate, and again."""

    def __init__(
        self,
        options: IngestOptions,
        platform: Platform,
        driver: Driver,
        copying: baseline.CopyBaseline,
        tenant_ids: list[int],
    ) -> None:
        self._options = options
        self._state = platform.state
        self._admin_dsn = platform.endpoints.primary
        self._target = platform.endpoints.services["ingest"]
        self._driver = driver
        self._copying = copying
        self._tenant_ids = tenant_ids
        self._requests = tuple(_requests(options))
        self._runs: list[dict[str, Any]] = []
        self._calls_ok = 0
        self._calls_failed = 0

    def all(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Do them; returns the runs, and whether what was acknowledged is there."""
        options, batch = self._options, self._options.shape.batch_points
        rows_before = self._rows_stored()
        self._write(ClosedLoop(options.callers, _WARM_UP_SECONDS))
        self._copying.run(_WARM_UP_SECONDS)
        for repeat in range(1, options.repeats + 1):
            waited = settle(self._admin_dsn)
            before = processor.read(self._state)
            copied = self._copying.run(options.seconds).summary()
            copied["processor_seconds"] = processor.read(self._state).since(before)
            self._keep(repeat, "baseline", copied, self._copying.rows_per_copy, waited)
            waited = settle(self._admin_dsn)
            written = self._write(ClosedLoop(options.callers, options.seconds))
            self._keep(repeat, "platform", written, batch, waited)
            waited = settle(self._admin_dsn)
            rate = options.points_per_second / batch
            written = self._write(OpenLoop(rate, options.seconds, seed=repeat))
            self._keep(repeat, "platform-open-loop", written, batch, waited)
        stored = self._rows_stored() - rows_before
        acknowledged = self._calls_ok * batch
        return self._runs, {
            "rows_acknowledged": acknowledged,
            "rows_stored": stored,
            # A call that failed may have stored its rows all the same.
            "nothing_lost": acknowledged <= stored <= acknowledged + self._calls_failed * batch,
        }

    def _write(self, load: OpenLoop | ClosedLoop) -> dict[str, Any]:
        job = Job(
            target=self._target,
            method=_METHOD,
            requests=self._requests,
            load=load,
            numbered=True,
            timeout_seconds=_TIMEOUT_SECONDS,
        )
        before = processor.read(self._state)
        run = self._driver.run(job)
        run["processor_seconds"] = processor.read(self._state).since(before)
        self._calls_ok += run["calls_ok"] + run["warm_up_calls_ok"]
        self._calls_failed += run["calls_failed"] + run["warm_up_calls_failed"]
        return run

    def _keep(
        self, repeat: int, kind: str, run: dict[str, Any], rows_per_call: int, waited: float
    ) -> None:
        rows = run["calls_ok"] * rows_per_call
        kept = {
            "repeat": repeat,
            "kind": kind,
            "rows": rows,
            "rows_per_second": round(rows / run["seconds"], 1),
            "settled_after_seconds": waited,
            **run,
        }
        self._runs.append(kept)
        failed = f", {run['calls_failed']} calls FAILED" if run["calls_failed"] else ""
        say(
            f"  {repeat}/{self._options.repeats} {kind:<20}"
            f" {kept['rows_per_second']:>11,.0f} rows/s{failed}"
        )

    def _rows_stored(self) -> int:
        with psycopg.connect(self._admin_dsn) as connection:
            row = connection.execute(
                "SELECT count(*) FROM entity_values_ts WHERE tenant_id = ANY (%s)",
                [self._tenant_ids],
            ).fetchone()
        assert row is not None
        return int(row[0])


def _requests(options: IngestOptions) -> list[Request]:
    rest = ingest_service_pb2.WriteRequest(ack=_ACK_LEVELS[options.ack]).SerializeToString()
    return [
        Request(tenant, Template(template.body + rest, template.offsets))
        for tenant, template in write_templates(options.shape)
    ]


def _results(options: IngestOptions, runs: list[dict[str, Any]]) -> dict[str, Any]:
    def kind(name: str) -> list[dict[str, Any]]:
        return [run for run in runs if run["kind"] == name]

    copied = medians(kind("baseline"), {"rows_per_second": "rows_per_second"})
    written = medians(kind("platform"), {"rows_per_second": "rows_per_second"})
    offered = medians(
        kind("platform-open-loop"),
        {
            "rows_per_second": "rows_per_second",
            "ack_p50_ms": "latency_ms.p50",
            "ack_p99_ms": "latency_ms.p99",
            "ack_max_ms": "latency_ms.max",
            "send_lag_p99_ms": "send_lag_ms.p99",
        },
    )
    return {
        "parameters": {**asdict(options), "baseline_rows_per_copy": _rows_per_copy(options.shape)},
        "medians": {"baseline": copied, "platform": written, "platform_open_loop": offered},
        "ratios": {
            "rows_per_second_platform_to_baseline": paired_ratio(
                kind("platform"), kind("baseline"), "rows_per_second"
            )
        },
        "runs": runs,
    }


def _rows_per_copy(shape: Shape) -> int:
    return shape.tenants * shape.entities * shape.batch_points // shape.batch_entities
