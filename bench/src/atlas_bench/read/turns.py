"""The scenarios that take turns: each once, then all again."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from atlas_bench.processes import echo_server
from atlas_bench.read import eav, overhead
from atlas_bench.read.answers import Check
from atlas_bench.read.eav import Eav
from atlas_bench.read.estate import MEASURED
from atlas_bench.read.job import ClosedLoop, Door, OpenLoop
from atlas_bench.read.load import Stored
from atlas_bench.read.questions import GET_ENTITIES, Question, Questions
from atlas_bench.read.rig import Rig
from atlas_bench.read.runs import Run, Runs
from atlas_bench.read.secured import secured


@dataclass
class Turns:
    """Everything that a turn needs."""

    rig: Rig
    stored: Stored
    questions: Questions
    runs: Runs
    eav: Eav | None = None
    echo: Door | None = None
    secured: Door | None = None
    compare_router: Callable[[overhead.RouterJob], Run] | None = None

    def measure(self) -> None:
        """Check each answer, warm up, then all turns."""
        options, wanted = self.rig.options, set(self.rig.options.only)
        with ExitStack() as undo:
            self._prepare(undo, wanted)
            scenarios: Mapping[str, Callable[[int], None]] = {
                "hot": self._hot,
                "secured": self._secured,
                "batch": self._batch,
                "filter": self._filter,
                "jsonb": self._jsonb,
                "cold": self._cold,
                "history": self._history,
                "router": self._router,
            }
            for repeat in range(1, options.repeats + 1):
                for name, scenario in scenarios.items():
                    if name in wanted:
                        scenario(repeat)

    def warm_up(self, asked: list[Question]) -> None:
        """Let caches fill."""
        for question in asked:
            self.runs.warm_up(question)

    def _prepare(self, undo: ExitStack, wanted: set[str]) -> None:
        options = self.rig.options
        estate, questions = options.estate, self.questions
        check = Check(self.rig, estate, self.stored, questions)
        asked: list[Question] = []
        if "hot" in wanted:
            asked += [questions.hot(), questions.hot_named()]
        if "batch" in wanted:
            asked += [questions.batch(options.batch_entities)]
            asked += [questions.single(options.batch_entities)]
            check.batch(options.batch_entities)
        if "filter" in wanted:
            tenant_id = self.stored.tenant_ids[MEASURED]
            self.eav = undo.enter_context(eav.opened(self.rig.copy_dsn, tenant_id, estate.tiers))
            asked += [questions.filter(), questions.filter_all()]
            check.filter(self.eav)
        if "router" in wanted:
            self.compare_router = undo.enter_context(overhead.comparing())
        for name in wanted & {"jsonb", "cold", "history"}:
            asked.append(getattr(questions, name)())
            getattr(check, name)()
        self.warm_up(asked)
        if "hot" in wanted:
            # Warm by now: the echo is to have what the cache answers.
            answer = {GET_ENTITIES: check.hot()}
            self.echo = Door(undo.enter_context(echo_server(answer)))
        if "secured" in wanted:
            tenant = options.estate.tenant_keys[MEASURED]
            self.secured = undo.enter_context(secured(self.rig, tenant))
            for door in (None, self.secured):
                self.runs.warm_up(questions.hot(), door)

    def _hot(self, repeat: int) -> None:
        options, question, named = (
            self.rig.options,
            self.questions.hot(),
            self.questions.hot_named(),
        )
        echo_door = self.echo
        assert echo_door is not None
        closed = ClosedLoop(options.callers, options.seconds)
        opened = OpenLoop(options.hot_rate, options.seconds, seed=repeat)

        def platform() -> None:
            self.runs.ask("hot_full_speed", repeat, question, closed)

        def echo() -> None:
            self.runs.ask_at("echo_full_speed", repeat, echo_door, question, closed)

        _in_turn(repeat, echo, platform)
        self.runs.ask("hot_named_full_speed", repeat, named, closed)
        self.runs.ask_at("echo", repeat, echo_door, question, opened)
        self.runs.ask("hot", repeat, question, opened)

    def _secured(self, repeat: int) -> None:
        options, question, door = self.rig.options, self.questions.hot(), self.secured
        assert door is not None
        closed = ClosedLoop(options.callers, options.seconds)

        def plain() -> None:
            self.runs.ask("plain_full_speed", repeat, question, closed)

        def verified() -> None:
            self.runs.ask_at("secured_full_speed", repeat, door, question, closed)

        _in_turn(repeat, plain, verified)

    def _batch(self, repeat: int) -> None:
        options = self.rig.options
        entities, seconds = options.batch_entities, options.seconds

        def batch() -> None:
            load = ClosedLoop(options.batch_callers, seconds)
            self.runs.ask("batch_full_speed", repeat, self.questions.batch(entities), load)

        def single() -> None:
            load = ClosedLoop(options.callers, seconds)
            self.runs.ask("single_full_speed", repeat, self.questions.single(entities), load)

        _in_turn(repeat, single, batch)

    def _filter(self, repeat: int) -> None:
        options, questions, over_rows = self.rig.options, self.questions, self.eav
        assert over_rows is not None
        pairs = questions.pairs()
        status, tier = pairs[repeat % len(pairs)]
        opened = OpenLoop(options.filter_rate, options.seconds, seed=repeat)

        def rows() -> None:
            self.runs.make("eav", repeat, lambda: over_rows.run(status, tier))

        def platform() -> None:
            self.runs.ask("filter", repeat, questions.filter(), opened)

        _in_turn(repeat, rows, platform)
        rarely = OpenLoop(options.filter_all_rate, options.seconds, seed=repeat)
        self.runs.ask("filter_all", repeat, questions.filter_all(), rarely)

    def _jsonb(self, repeat: int) -> None:
        self._steady("jsonb", repeat, self.questions.jsonb())

    def _cold(self, repeat: int) -> None:
        self._steady("cold", repeat, self.questions.cold())

    def _history(self, repeat: int) -> None:
        self._steady("history_first", repeat, self.questions.history())

    def _steady(self, kind: str, repeat: int, question: Question) -> None:
        options = self.rig.options
        opened = OpenLoop(options.rate, options.seconds, seed=repeat)
        self.runs.ask(kind, repeat, question, opened)

    def _router(self, repeat: int) -> None:
        compare = self.compare_router
        assert compare is not None
        job = overhead.RouterJob(
            primary_dsn=self.rig.primary_dsn,
            copy_dsn=self.rig.copy_dsn,
            tenant_id=self.stored.tenant_ids[MEASURED],
            entity_ids=self._some_entities(),
            rounds=self.rig.options.router_rounds,
        )
        self.runs.make("router", repeat, lambda: compare(job))

    def _some_entities(self) -> tuple[int, ...]:
        rows = self.rig.admin.execute(
            "SELECT entity_id FROM entity_jsonb WHERE tenant_id = %s ORDER BY entity_id LIMIT %s",
            [self.stored.tenant_ids[MEASURED], self.rig.options.variants],
        ).fetchall()
        return tuple(row[0] for row in rows)


def _in_turn(repeat: int, *neighbours: Callable[[], Any]) -> None:
    """Make the runs of neighbours; who is first takes turns."""
    for run in neighbours if repeat % 2 else reversed(neighbours):
        run()
