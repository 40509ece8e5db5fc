"""What the group commit is worth, and what an acknowledgement costs at a steady load."""

from functools import partial
from typing import Any

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_bench.ingest.direct import Written
from atlas_bench.ingest.job import Ack
from atlas_bench.ingest.jobs import small_job, steady_job
from atlas_bench.ingest.rig import Rig
from atlas_bench.ingest.runs import Run, Runs
from atlas_bench.medians import medians
from atlas_bench.processes import echo_server
from atlas_bench.progress import say

GROUP_COMMIT_OFF = {
    "ATLAS_FLUSH__POINTS": "1",
    "ATLAS_FLUSH__INTERVAL_MS": "0",
    "ATLAS_FLUSH__LANES_MAX": "1",  # As many as the group commit needs for the same calls.
}
"""Every batch is enough by itself, and none is waited for: one COPY and one flush per call."""
_CONVOY_SECONDS = 1.0
_NOTHING_DONE = {"/atlas.ingest.v1.IngestService/Write": pb.WriteResponse().SerializeToString()}


def group_commit(rig: Rig, runs: Runs) -> None:
    """Many callers with a few points each, against the same service without its group commit."""
    options = rig.options
    prepared = rig.drivers.prepare(small_job(options))
    with rig.second_ingest(GROUP_COMMIT_OFF) as alone, echo_server(_NOTHING_DONE) as bare:
        rig.direct.prepare(options.small_points)
        prepared.result()
        for repeat in range(1, options.repeats + 1):
            for kind, job in (
                ("group_commit_on", small_job(options, rig.target)),
                ("group_commit_off", small_job(options, alone, slow=True)),
            ):
                run = partial(rig.drivers.run, job, options.small_drivers)
                runs.platform(kind, repeat, run)
            copy = partial(rig.direct.copy, _CONVOY_SECONDS, options.small_points)
            runs.direct("copy_per_call", repeat, copy)
            runs.direct("echo", repeat, partial(_echo, rig, bare))


def _echo(rig: Rig, bare: str) -> Written:
    """The same calls to a server that answers each at once."""
    run = rig.drivers.run(small_job(rig.options, bare), rig.options.small_drivers)
    return Written(run.points_acknowledged, run.seconds)


def latency(rig: Rig, runs: Runs) -> None:
    """A steady load in an open loop, acknowledged at one level, then at the other."""
    options = rig.options
    for repeat in range(1, options.repeats + 1):
        for ack in (Ack.COMMITTED, Ack.STAGED):
            job = steady_job(options, rig.target, ack, seed=repeat)
            runs.platform(f"steady_{ack}", repeat, partial(rig.drivers.run, job))
            say(f"     {_percentiles(runs.all[-1])}")


def latency_medians(runs: Runs) -> dict[str, Any]:
    """Return the medians of the percentiles, milliseconds."""
    found: dict[str, Any] = {}
    for ack in (Ack.COMMITTED, Ack.STAGED):
        paths = {f"{ack}_{name}": f"latency_ms.{name}" for name in ("p50", "p99", "max")}
        paths[f"{ack}_send_lag_p99"] = "send_lag_ms.p99"
        found |= medians(runs.of(f"steady_{ack}"), paths)
    return found


def _percentiles(run: Run) -> str:
    found = run["latency_ms"] or {}
    lag = (run["send_lag_ms"] or {}).get("p99", 0.0)
    words = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
    return f"latency in ms: {words}; sent late by {lag:.1f} (p99)"
