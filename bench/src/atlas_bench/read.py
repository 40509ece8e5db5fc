"""`atlas bench read`: reads of every tier against a bare gRPC echo of the same bytes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc

from atlas_bench import machine, processor
from atlas_bench.errors import BenchError
from atlas_bench.job import ClosedLoop, Job, OpenLoop, Request
from atlas_bench.medians import median, paired_ratio, pick
from atlas_bench.operations import HISTORY_ATTRIBUTES, HISTORY_READINGS, Operation, operations
from atlas_bench.processes import Driver, echo_server
from atlas_bench.progress import say
from atlas_bench.target import Platform, cache_counters, prepare, running, settle
from atlas_bench.workload import Shape, write_templates

_WARM_UP_SECONDS = 1.0
_LOAD_SECONDS_MAX = 120.0
_LOAD_CALLERS = 8
# Name of a result: (loop that measures it, path in a run).
_MEASURES = {
    "calls_per_second": ("closed-loop", "calls_per_second"),
    "p50_ms": ("open-loop", "latency_ms.p50"),
    "p99_ms": ("open-loop", "latency_ms.p99"),
}
_OF_THE_DRIVER = {"send_lag_p99_ms": ("open-loop", "send_lag_ms.p99")}


@dataclass(frozen=True)
class ReadOptions:
    """What is measured, how often, how long."""

    seconds: float = 3.0
    """Of each run."""
    repeats: int = 5
    calls_per_second: float = 100.0
    """Of the open loop, which finds the latency."""
    callers: int = 16
    """Of the closed loop, which finds the throughput."""
    shape: Shape = field(default_factory=Shape)

    @property
    def history_rounds(self) -> int:
        """How often every attribute is written before: enough for the history that is read."""
        return -(-HISTORY_READINGS // len(HISTORY_ATTRIBUTES))


def measure(options: ReadOptions, state: Path | None) -> dict[str, Any]:
    """Run the benchmark; returns what --json prints. Raises BenchError."""
    with running(state) as platform, Driver.started() as driver:
        facts = machine.facts(platform.endpoints.primary)
        prepare(platform, options.shape)
        _load(options, platform, driver)
        chosen = operations(options.shape)
        answers = _first_answers(chosen, platform)
        with echo_server(answers) as echo_target:
            runs = _Rounds(options, platform, driver, echo_target).all(chosen)
    sizes = {name: sum(map(len, messages)) for name, messages in answers.items()}
    return {"bench": "read", "machine": facts, **_results(options, chosen, sizes, runs)}


def _load(options: ReadOptions, platform: Platform, driver: Driver) -> None:
    requests = tuple(Request(*each) for each in write_templates(options.shape))
    calls = options.history_rounds * len(requests)
    say(f"  writing {calls * options.shape.batch_points:,} points to read")
    run = driver.run(
        Job(
            target=platform.endpoints.services["ingest"],
            method="/atlas.ingest.v1.IngestService/Write",
            requests=requests,
            load=ClosedLoop(_LOAD_CALLERS, _LOAD_SECONDS_MAX, calls),
            numbered=True,
        )
    )
    if run["calls_ok"] < calls:
        raise BenchError(f"only {run['calls_ok']} of {calls} batches were stored: {run['errors']}")
    settle(platform.endpoints.primary)


def _first_answers(chosen: Sequence[Operation], platform: Platform) -> dict[str, list[bytes]]:
    query = platform.endpoints.services["query"]
    answers = {}
    for operation in chosen:
        try:
            answers[operation.name] = operation.first_answer(query)
        except grpc.RpcError as error:
            raise BenchError(f"{operation.name} does not work: {error}") from error
    return answers


class _Rounds:
    """The runs, in turn: for each operation echo and platform, at full speed, then at a rate."""

    def __init__(
        self, options: ReadOptions, platform: Platform, driver: Driver, echo_target: str
    ) -> None:
        self._options = options
        self._platform = platform
        self._driver = driver
        self._echo_target = echo_target
        self._runs: list[dict[str, Any]] = []

    def all(self, chosen: Sequence[Operation]) -> list[dict[str, Any]]:
        """Do them."""
        options = self._options
        for operation in chosen:
            self._run(operation, "platform", ClosedLoop(options.callers, _WARM_UP_SECONDS))
        for repeat in range(1, options.repeats + 1):
            for operation in chosen:
                for kind in ("baseline", "platform"):
                    closed = ClosedLoop(options.callers, options.seconds)
                    self._keep(repeat, operation, kind, "closed-loop", closed)
                    opened = OpenLoop(options.calls_per_second, options.seconds, seed=repeat)
                    self._keep(repeat, operation, kind, "open-loop", opened)
        return self._runs

    def _keep(
        self, repeat: int, operation: Operation, kind: str, loop: str, load: OpenLoop | ClosedLoop
    ) -> None:
        names = {"repeat": repeat, "operation": operation.name, "kind": kind, "loop": loop}
        hits, misses = cache_counters(self._platform)
        before = processor.read(self._platform.state)
        run = self._run(operation, kind, load)
        run["processor_seconds"] = processor.read(self._platform.state).since(before)
        hits_after, misses_after = cache_counters(self._platform)
        cache = {"cache_hits": hits_after - hits, "cache_misses": misses_after - misses}
        self._runs.append({**names, **run, **(cache if kind == "platform" else {})})
        failed = f", {run['calls_failed']} calls FAILED" if run["calls_failed"] else ""
        latency = run["latency_ms"] or {"p50": float("nan"), "p99": float("nan")}
        say(
            f"  {repeat}/{self._options.repeats} {operation.name:<8} {kind:<9} {loop:<12}"
            f" {run['calls_per_second']:>8,.0f}/s  p50 {latency['p50']:>7.2f} ms"
            f"  p99 {latency['p99']:>7.2f} ms{failed}"
        )

    def _run(self, operation: Operation, kind: str, load: OpenLoop | ClosedLoop) -> dict[str, Any]:
        echo_prefix = "/echo-stream" if operation.streaming else "/echo"
        is_echo = kind == "baseline"
        return self._driver.run(
            Job(
                target=self._echo_target if is_echo else self._platform.endpoints.services["query"],
                method=f"{echo_prefix}/{operation.name}" if is_echo else operation.method,
                requests=operation.requests,
                load=load,
                streaming=operation.streaming,
            )
        )


def _results(
    options: ReadOptions,
    chosen: Sequence[Operation],
    sizes: dict[str, int],
    runs: list[dict[str, Any]],
) -> dict[str, Any]:
    middle: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    for operation in chosen:
        own = [run for run in runs if run["operation"] == operation.name]
        platform = [run for run in own if run["kind"] == "platform"]
        echo = [run for run in own if run["kind"] == "baseline"]
        middle[operation.name] = {
            "baseline": _medians(echo),
            "platform": {**_medians(platform), **_served(platform)},
        }
        ratios[operation.name] = {
            f"{name}_platform_to_baseline": paired_ratio(_of(platform, loop), _of(echo, loop), path)
            for name, (loop, path) in _MEASURES.items()
        }
    return {
        "parameters": {
            **asdict(options),
            "operations": {
                each.name: {"what": each.describes, "answer_bytes": sizes[each.name]}
                for each in chosen
            },
        },
        "medians": middle,
        "ratios": ratios,
        "runs": runs,
    }


def _medians(runs: list[dict[str, Any]]) -> dict[str, float | None]:
    return {
        name: median(pick(run, path) for run in _of(runs, loop))
        for name, (loop, path) in {**_MEASURES, **_OF_THE_DRIVER}.items()
    }


def _of(runs: list[dict[str, Any]], loop: str) -> list[dict[str, Any]]:
    return [run for run in runs if run["loop"] == loop]


def _served(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Say which tiers answered, and the share of entities that the cache had."""
    sources: Counter[str] = Counter()
    for run in runs:
        sources.update(run["sources"])
    total = sources.total()
    return {
        "sources": {name: round(count / total, 4) for name, count in sources.items()},
        "cache_hit_share": median(_hit_share(run) for run in runs),
        "calls_failed": sum(run["calls_failed"] for run in runs),
    }


def _hit_share(run: dict[str, Any]) -> float | None:
    asked = run["cache_hits"] + run["cache_misses"]
    return float(run["cache_hits"] / asked) if asked else None
