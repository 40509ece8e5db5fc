"""What reads cost while ingest takes all it can: the same runs beside its benchmark's load."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from atlas_bench.catalog import make_catalog
from atlas_bench.ingest.drivers import Drivers
from atlas_bench.ingest.job import WriteJob, WriteRun
from atlas_bench.ingest.jobs import arrow_job
from atlas_bench.medians import median, ratio
from atlas_bench.progress import say
from atlas_bench.read.job import OpenLoop
from atlas_bench.read.questions import Question
from atlas_bench.read.runs import Run
from atlas_bench.read.turns import Turns

SUFFIX = "_under_ingest"
_REPEATS_MAX = 3
_LONGER = 1.8
"""Than a run: one that cannot keep up with its rate ends late."""


def measure(turns: Turns) -> None:
    """Measure each read beside the load. The tenants written to are others than the one read."""
    rig, options = turns.rig, turns.rig.options
    fleet = options.ingest.fleet
    say("  encoding the load of ingest")
    make_catalog(
        rig.endpoints,
        dict.fromkeys(fleet.tenant_keys, fleet.attributes),
        fleet.entity_keys,
    )
    job = arrow_job(options.ingest, rig.endpoints.services["ingest"])
    asked = _asked(turns)
    turns.warm_up([question for question, _ in asked.values()])
    with Drivers.started() as drivers:
        drivers.prepare(job).result()
        beside = _Beside(turns, drivers, job)
        drivers.run(replace(job, seconds=options.ingest_lead_seconds))
        for repeat in range(1, min(options.repeats, _REPEATS_MAX) + 1):
            for kind, (question, rate) in asked.items():
                opened = OpenLoop(rate, options.seconds, seed=repeat)
                beside.ask(kind, repeat, question, opened)


def results(turns: Turns, idle: Mapping[str, float]) -> dict[str, Any]:
    """Return the latencies, their ratios to those without the load, and what ingest took."""
    runs, kinds = turns.runs, list(_asked(turns))
    latency: dict[str, float] = {}
    for kind in kinds:
        latency |= runs.percentiles(f"{kind}{SUFFIX}", kind)
    all_runs = [run for kind in kinds for run in runs.of(f"{kind}{SUFFIX}")]
    return {
        "latency_ms": latency,
        "to_idle": {
            name: found
            for name, value in latency.items()
            if (found := ratio(value, idle.get(name))) is not None
        },
        "ingest_rows_per_s": median([run["ingest_rows_per_s"] for run in all_runs]),
        "busy_share": median([run["busy_share"] for run in all_runs]),
        "queued_share": queued_shares(all_runs),
    }


def queued_shares(runs: Sequence[Run]) -> dict[str, float]:
    """Return how much of the time that a part wanted a core it waited for one; most first."""
    wanted: Counter[str] = Counter()
    queued: Counter[str] = Counter()
    for run in runs:
        queued.update(run["queued_seconds"])
        wanted.update(run["queued_seconds"])
        wanted.update(run["processor_seconds"])
    shares = {part: round(queued[part] / wanted[part], 3) for part in queued if wanted[part]}
    return dict(sorted(shares.items(), key=lambda item: item[1], reverse=True))


def _asked(turns: Turns) -> dict[str, tuple[Question, float]]:
    """The reads, by the names of their latencies, and the rate of each."""
    options, questions = turns.rig.options, turns.questions
    return {
        "hot": (questions.hot(), options.hot_rate),
        "jsonb": (questions.jsonb(), options.rate),
        "filter": (questions.filter(), options.filter_rate),
        "cold": (questions.cold(), options.rate),
        "history_first": (questions.history(), options.rate),
    }


@dataclass(frozen=True)
class _Beside:
    """The load, and the reads beside it."""

    turns: Turns
    drivers: Drivers
    job: WriteJob

    def ask(self, kind: str, repeat: int, question: Question, load: OpenLoop) -> None:
        """Measure a read while the load runs from before it to after it."""
        lead = self.turns.rig.options.ingest_lead_seconds
        seconds = lead + _LONGER * load.seconds
        writing: Future[WriteRun] = self.drivers.begin(replace(self.job, seconds=seconds))
        time.sleep(lead)
        run = self.turns.runs.ask(f"{kind}{SUFFIX}", repeat, question, load)
        run["ingest_to_the_end"] = not writing.done()
        written = writing.result()
        run["ingest_rows_per_s"] = round(written.rows_per_s, 1)
        run["ingest_errors"] = written.errors
