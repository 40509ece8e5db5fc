"""What a tenant's reads cost while a neighbour asks for far more than its quota."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from atlas_bench.errors import BenchError
from atlas_bench.read.estate import NEIGHBOUR
from atlas_bench.read.job import Door, OpenLoop, ReadJob
from atlas_bench.read.questions import Question
from atlas_bench.read.runs import Run, reading_driver
from atlas_bench.read.turns import Turns
from atlas_client import AtlasClient, AtlasError, Quotas
from atlas_client import Endpoints as ClientEndpoints

KINDS = ("noisy_alone", "noisy_at_quota", "noisy_beyond")
"""The same reads without a neighbour, beside one at its quota, and beside one at 20 times that."""
_FACTORS = {"noisy_at_quota": 1.0, "noisy_beyond": 20.0}
_KNOWN_SECONDS_MAX = 60.0
"""Services remember a tenant, and its quotas, for half a minute."""
_LONGER = 1.5
_NICENESS = 19
"""Of the neighbour's driver, which in truth has a machine of its own."""


def measure(turns: Turns) -> None:
    """Measure a tenant's hot reads, in turn, at each kind of neighbour. Raises BenchError."""
    options, question = turns.rig.options, turns.questions.hot()
    turns.warm_up([question])
    with ExitStack() as undo:
        neighbour = _Neighbour(
            turns, question, undo.enter_context(reading_driver(niceness=_NICENESS))
        )
        undo.enter_context(neighbour.limited())
        for repeat in range(1, options.repeats + 1):
            load = OpenLoop(options.rate, options.noisy_seconds, seed=repeat)
            for kind in KINDS if repeat % 2 else reversed(KINDS):
                with neighbour.asking(_FACTORS.get(kind, 0.0), repeat) as asked:
                    run = turns.runs.ask(kind, repeat, question, load)
                if asked is not None:
                    theirs = asked.result()
                    run["neighbour_calls_ok"] = theirs["calls_ok"]
                    run["neighbour_calls_refused"] = theirs["calls_failed"]
                    run["neighbour_seconds"] = theirs["seconds"]


class _Neighbour:
    """The other tenant, with a driver of its own."""

    def __init__(
        self, turns: Turns, question: Question, ask_driver: Callable[[ReadJob], Run]
    ) -> None:
        self._options = turns.rig.options
        self._tenant = self._options.estate.tenant_keys[NEIGHBOUR]
        self._endpoints = ClientEndpoints.from_json(turns.rig.endpoints.to_json())
        self._door = Door(turns.rig.query)
        self._question = question
        self._ask_driver = ask_driver

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Give it its quota for the block, which begins when the platform keeps to it."""
        rate = self._options.noisy_quota
        self._change(Quotas(calls_per_second=rate))
        try:
            ends = time.monotonic() + _KNOWN_SECONDS_MAX
            while not self._run(OpenLoop(10 * rate, 1.0, seed=0))["calls_failed"]:
                if time.monotonic() > ends:
                    raise BenchError("the neighbour's quota was not kept to")
            yield
        finally:
            self._change(Quotas())

    @contextmanager
    def asking(self, factor: float, seed: int) -> "Iterator[Future[Run] | None]":
        """Let it ask at so many times its quota, from before the block to after it."""
        if not factor:
            yield None
            return
        options = self._options
        seconds = options.ingest_lead_seconds + _LONGER * options.noisy_seconds
        load = OpenLoop(factor * options.noisy_quota, seconds, seed)
        with ThreadPoolExecutor(max_workers=1) as thread:
            asked = thread.submit(self._run, load)
            time.sleep(options.ingest_lead_seconds)
            yield asked

    def _run(self, load: OpenLoop) -> Run:
        question = self._question
        return self._ask_driver(
            ReadJob(self._door, question.method, self._tenant, question.requests, load)
        )

    def _change(self, quotas: Quotas) -> None:
        async def change() -> None:
            async with AtlasClient.connect(self._endpoints) as client:
                await client.update_tenant(self._tenant, quotas=quotas)

        try:
            asyncio.run(change())
        except AtlasError as error:
            raise BenchError(f"the neighbour's quota could not be set: {error}") from error
