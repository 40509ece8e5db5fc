"""Whether answers are right: looked at once before anything is measured, counted after it."""

from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_bench.errors import BenchError
from atlas_bench.read.eav import WAYS, Eav
from atlas_bench.read.estate import HOUR_US, MEASURED, MINUTE_US, NEIGHBOUR, Estate, Layer
from atlas_bench.read.load import Stored
from atlas_bench.read.questions import HOT_ENTITY, Question, Questions
from atlas_bench.read.rig import Rig
from atlas_bench.read.runs import Run
from atlas_bench.workload import Scalar, set_value

SHARE_MIN = 0.99
"""Of the answers of a run that have to come from the tier that is measured."""


class Check:
    """Compares answers with what was stored. Raises BenchError at the first that is wrong."""

    def __init__(self, rig: Rig, estate: Estate, stored: Stored, questions: Questions) -> None:
        self._rig = rig
        self._estate = estate
        self._stored = stored
        self._questions = questions

    def hot(self) -> bytes:
        """One entity's hot attributes, from the cache or past it; returns the answer's bytes."""
        wanted = self._newest(HOT_ENTITY, range(self._estate.hot))
        (message,) = self._ask(self._questions.hot())
        self._same("hot", wanted, pb.GetEntitiesResponse.FromString(message).entities[0])
        return message

    def jsonb(self) -> None:
        """An entity's hot attributes by STRONG."""
        (message,) = self._ask(self._questions.jsonb())
        entity = pb.GetEntitiesResponse.FromString(message).entities[0]
        number = self._number(entity.entity_key)
        self._same("jsonb", self._newest(number, range(self._estate.hot)), entity)

    def cold(self) -> None:
        """A cold attribute."""
        (message,) = self._ask(self._questions.cold())
        entity = pb.GetEntitiesResponse.FromString(message).entities[0]
        number = self._number(entity.entity_key)
        attribute = int(self._estate.cold_of(np.array([number]))[0][0]) + self._estate.hot
        self._same("cold", self._newest(number, [attribute]), entity)

    def batch(self, entities: int) -> None:
        """As many entities as were asked for, each with all it has."""
        (message,) = self._ask(self._questions.batch(entities))
        found = pb.GetEntitiesResponse.FromString(message).entities
        if len(found) != entities:
            raise _wrong("batch", f"{len(found)} of {entities} entities")
        for entity in found:
            number = self._number(entity.entity_key)
            self._same("batch", self._newest(number, range(self._estate.hot)), entity)

    def filter(self, eav: Eav) -> None:
        """The page is that of the rows, and another one for the other tenant."""
        question, (status, tier) = self._questions.filter(), self._questions.pairs()[0]
        entities = self._page(question, MEASURED)
        keys = {entity.entity_key for entity in entities}
        estate = self._estate
        wanted = {estate.entity_keys[n] for n in estate.matching(MEASURED, status, tier)}
        if keys != wanted:
            raise _wrong("filter", f"{len(keys & wanted)} of {len(wanted)} entities are right")
        ids = [entity.entity_id for entity in entities]
        if any(eav.matching(status, tier, way) != ids for way in WAYS):
            raise _wrong("filter", "the question over rows finds others")
        neighbours = {entity.entity_key for entity in self._page(question, NEIGHBOUR)}
        matching = estate.matching(NEIGHBOUR, status, tier)
        if neighbours != {estate.entity_keys[number] for number in matching}:
            raise _wrong("filter", "the neighbour sees other entities than its own")

    def history(self) -> None:
        """Sixty points, a minute apart, of what was written."""
        messages = self._ask(self._questions.history())
        parts = [pb.GetHistoryResponse.FromString(message) for message in messages]
        times = [each.event_time_us for part in parts for each in part.readings]
        if len(times) != HOUR_US // MINUTE_US or set(np.diff(times)) != {MINUTE_US}:
            raise _wrong("history", f"{len(times)} points")

    def _page(self, question: Question, tenant: int) -> list[pb.EntityState]:
        (message,) = self._ask(question, tenant)
        answer = pb.FindEntitiesResponse.FromString(message)
        if answer.next_page_token:
            raise _wrong("filter", "there are more than a page")
        return list(answer.entities)

    def _ask(self, question: Question, tenant: int = MEASURED) -> list[bytes]:
        return question.answer(self._rig.query, self._estate.tenant_keys[tenant])

    def _newest(self, entity: int, attributes: Iterable[int]) -> dict[str, Scalar]:
        estate, numbers = self._estate, np.array(list(attributes))
        entities = np.full(len(numbers), entity)
        raw = estate.raw(Layer(MEASURED, entities, numbers, entities, 0))
        return {
            estate.attributes[number].name: estate.values.scalar(
                int(number), estate.attributes[number].data_type, int(value)
            )
            for number, value in zip(numbers, raw, strict=True)
        }

    def _same(self, what: str, wanted: dict[str, Scalar], entity: pb.EntityState) -> None:
        types = {each.name: each.data_type for each in self._estate.attributes}
        found = {each.attribute: each for each in entity.readings}
        if found.keys() != wanted.keys():
            raise _wrong(what, f"{len(found)} of {len(wanted)} attributes of {entity.entity_key}")
        for name, value in wanted.items():
            point = value_pb2.Point()
            set_value(point, types[name], value)
            if _plain(found[name].value, "kind") != _plain(point, "value"):
                raise _wrong(what, f"{name} of {entity.entity_key} is {found[name].value}")
            if found[name].event_time_us != self._stored.base_us:
                raise _wrong(what, f"{name} of {entity.entity_key} is not the newest")

    def _number(self, key: str) -> int:
        return self._estate.entity_keys.index(key)


def remarks(runs: Iterable[Run]) -> list[str]:
    """Say what of the runs was not as it should be; empty when all was."""
    failed: Counter[str] = Counter()
    lonely: list[str] = []
    strayed: dict[str, Counter[str]] = {}
    for run in runs:
        count = run.get("calls_failed", 0) + run.get("warm_up_calls_failed", 0)
        failed.update({run["kind"]: count} if count else {})
        if not run.get("ingest_to_the_end", True):
            lonely.append(run["kind"])
        if run.get("wanted_source"):
            strayed.setdefault(f"{run['kind']} {run['wanted_source']}", Counter()).update(
                run["sources"]
            )
    found = [f"{count} calls of {kind} FAILED" for kind, count in failed.items()]
    found += [f"the load of ingest ended before {kind} did" for kind in dict.fromkeys(lonely)]
    for name, sources in strayed.items():
        kind, _, wanted = name.partition(" ")
        share = sources[wanted] / (sources.total() or 1)
        if share < SHARE_MIN:
            others = ", ".join(f"{count} {source}" for source, count in sources.most_common())
            found.append(f"{kind} was to be answered by {wanted}: {share:.1%} were ({others})")
    return found


def shares(runs: Iterable[Run]) -> dict[str, dict[str, float]]:
    """Return, for each kind of run, which tiers answered."""
    found: dict[str, Counter[str]] = {}
    for run in runs:
        if run.get("wanted_source"):
            found.setdefault(run["kind"], Counter()).update(run["sources"])
    return {
        kind: {source: round(count / sources.total(), 4) for source, count in sources.most_common()}
        for kind, sources in found.items()
    }


def _plain(message: Any, oneof: str) -> Any:
    """A value or a point's value as Python has it: equal values are equal."""
    kind = message.WhichOneof(oneof)
    value = getattr(message, kind)
    match kind:
        case "decimal_value":
            return kind, Decimal(value)
        case "time_value":
            return kind, value.ToMicroseconds()
        case _:
            return kind, value


def _wrong(what: str, how: str) -> BenchError:
    return BenchError(f"the answer of {what} is wrong, so nothing is measured: {how}")
