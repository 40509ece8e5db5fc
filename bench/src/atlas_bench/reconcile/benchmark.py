"""The whole benchmark, and its result."""

import asyncio
import importlib.util
import json
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any, TypeAlias

from atlas_bench import machine, processor
from atlas_bench.catalog import make_catalog
from atlas_bench.errors import BenchError
from atlas_bench.ingest.drivers import Drivers
from atlas_bench.ingest.job import WriteRun
from atlas_bench.ingest.jobs import arrow_job
from atlas_bench.medians import median, ratio
from atlas_bench.progress import say
from atlas_bench.reconcile.options import ReconcileOptions
from atlas_bench.reconcile.rig import TENANT, Rig, running
from atlas_bench.reconcile.targets import TARGETS
from atlas_bench.targets import verdicts
from atlas_client import AtlasClient, Endpoints

Run: TypeAlias = dict[str, Any]
_CALL_SECONDS_MAX = 900.0
_POLL_SECONDS = 0.05


def measure(options: ReconcileOptions) -> dict[str, Any]:
    """Run it; returns what --json prints. Raises BenchError."""
    began = time.monotonic()
    with running(options) as rig:
        facts = machine.facts(rig.stack.endpoints.primary)
        say(f"  a platform is up after {time.monotonic() - began:.1f} s")
        rig.fill()
        runs: list[Run] = []
        for repeat in range(1, options.repeats + 1):
            if "full" in options.only:
                runs.append(_reconciled(rig, "full", repeat, from_start=True))
            if "incremental" in options.only:
                new = rig.add_new()
                run = _reconciled(rig, "incremental", repeat, from_start=False)
                runs.append({**run, "new_rows": new})
        if "ingest" in options.only:
            runs += _beside_ingest(rig)
        remarks = _peer(rig, runs) if "reladiff" in options.only else []
        result = {
            "bench": "reconcile",
            "quick": options.quick,
            **_figures(runs),
            "remarks": remarks,
            "rows": rig.rows,
            "parameters": asdict(options),
            "machine": facts,
            "took_seconds": round(time.monotonic() - began, 1),
            "runs": runs,
        }
    return {**result, "targets": verdicts(TARGETS, result)}


def _figures(runs: list[Run]) -> dict[str, Any]:
    def of(kind: str, figure: str = "seconds") -> float | None:
        return median(run.get(figure) for run in runs if run["kind"] == kind)

    alone, beside = of("ingest", "rows_per_s"), of("ingest_beside", "rows_per_s")
    kept = ratio(beside, alone)
    ratios = {
        "vs_reladiff": ratio(of("reladiff"), of("full")),
        "incremental_vs_full": ratio(of("full"), of("incremental")),
        "ingest_slowdown": None if kept is None else round(max(0.0, 1 - kept), 4),
    }
    rates = {"full": of("full", "rows_per_s"), "ingest": alone, "ingest_beside": beside}
    seconds = {kind: of(kind) for kind in ("full", "incremental", "reladiff")}
    return {"ratios": _known(ratios), "rows_per_s": _known(rates), "seconds": _known(seconds)}


def _reconciled(rig: Rig, kind: str, repeat: int, *, from_start: bool) -> Run:
    """Compare once; the rows per second are those that were compared. Raises BenchError."""
    before = processor.read(rig.stack.state.path)
    began = time.monotonic()
    summary = asyncio.run(_summary(rig, from_start=from_start))
    seconds = time.monotonic() - began
    if not summary.matched or summary.source.row_count != rig.rows:
        raise BenchError(f"the copies differ, or rows are missing: {summary}")
    run = {
        "kind": kind,
        "repeat": repeat,
        "seconds": round(seconds, 3),
        "rows_per_s": round(summary.source.row_count / seconds, 1),
        "windows": summary.windows_compared,
        "processor_seconds": processor.read(rig.stack.state.path).since(before),
    }
    say(f"  {repeat:>2} {kind:<14} {seconds:>8.2f} s  {summary.windows_compared:,} windows")
    return run


async def _summary(rig: Rig, *, from_start: bool) -> Any:
    endpoints = Endpoints.from_json(rig.stack.endpoints.to_json())
    async with AtlasClient.connect(endpoints, tenant=TENANT) as client:
        call = client.reconcile(from_start=from_start, timeout=_CALL_SECONDS_MAX)
        return await call.summary()


def _beside_ingest(rig: Rig) -> list[Run]:
    """The write path at full speed, alone and while what it writes is reconciled, by turns."""
    options, fleet = rig.options, rig.options.ingest.fleet
    say("  encoding the load of ingest")
    attributes = dict.fromkeys(fleet.tenant_keys, fleet.attributes)
    make_catalog(rig.stack.endpoints, attributes, fleet.entity_keys)
    job = replace(
        arrow_job(options.ingest, rig.stack.services["ingest"].target),
        seconds=options.ingest_seconds,
    )
    runs: list[Run] = []
    with Drivers.started() as drivers:
        drivers.prepare(job).result()
        drivers.run(replace(job, seconds=2.0))
        for repeat in range(1, options.repeats + 1):
            kinds = ("ingest", "ingest_beside") if repeat % 2 else ("ingest_beside", "ingest")
            for kind in kinds:
                rig.settle()
                run = drivers.begin(job)
                calls = _reconcile_during(rig, run) if kind == "ingest_beside" else 0
                rate = run.result().rows_per_s
                runs.append(
                    {
                        "kind": kind,
                        "repeat": repeat,
                        "rows_per_s": round(rate, 1),
                        "reconciliations": calls,
                    }
                )
                say(f"  {repeat:>2} {kind:<14} {rate:>10,.0f} rows/s, {calls} reconciliations")
    return runs


def _reconcile_during(rig: Rig, run: "Future[WriteRun]") -> int:
    """Compare what is new of every tenant that is written to, again and again."""

    async def sweep() -> int:
        calls = 0
        endpoints = Endpoints.from_json(rig.stack.endpoints.to_json())
        async with AtlasClient.connect(endpoints, tenant=TENANT) as client:
            due = time.monotonic()
            while not run.done():
                if time.monotonic() < due:
                    await asyncio.sleep(_POLL_SECONDS)
                    continue
                due = time.monotonic() + rig.options.interval_seconds
                for key in rig.options.ingest.fleet.tenant_keys:
                    own = client.for_tenant(key)
                    await own.reconcile(timeout=_CALL_SECONDS_MAX).summary()
                    calls += 1
                    if run.done():
                        break
        return calls

    return asyncio.run(sweep())


def _peer(rig: Rig, runs: list[Run]) -> list[str]:
    """reladiff on the same two tables. Last: the warehouse's file cannot have two owners."""
    if importlib.util.find_spec("reladiff") is None:
        return ["reladiff is not installed: pip install 'atlas-bench[peers]'"]
    rig.settle()
    rig.service.stop()
    job = {
        "source": rig.stack.endpoints.primary,
        "warehouse": str(rig.stack.state.warehouse),
        "tenant_id": rig.tenant_id,
    }
    remarks = []
    for repeat in range(1, rig.options.peer_repeats + 1):
        done = subprocess.run(
            [sys.executable, "-m", "atlas_bench.reconcile.peer"],
            input=json.dumps(job) + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return [f"reladiff failed: {done.stderr.strip().splitlines()[-1:]}"]
        found = json.loads(done.stdout.splitlines()[-1])
        runs.append({"kind": "reladiff", "repeat": repeat, **found})
        say(f"  {repeat:>2} reladiff       {found['seconds']:>8.2f} s")
        if found["differences"]:
            remarks.append(f"reladiff found {found['differences']} differences where none are")
    return remarks


def _known(figures: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}
