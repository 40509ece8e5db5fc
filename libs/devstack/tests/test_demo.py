"""What the demo says is wrong, without a platform: a proof that cannot fail proves nothing."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from atlas_client import DataType, Digest, ReconcileSummary, Source, Tier
from atlas_client.values import data_type_of, to_proto
from atlas_devstack.demo.host import HOST_ATTRIBUTES, HostSampler, points
from atlas_devstack.demo.isolation import IsolationCounts
from atlas_devstack.demo.proof import prove
from atlas_devstack.demo.summary import Outcome
from atlas_devstack.demo.tally import TIERS, Latencies, Tally
from atlas_devstack.demo.watch import Figures

ISOLATED = IsolationCounts(foreign_entities_asked=2, foreign_tokens_tried=2, canaries_looked_for=2)


def reconciled(rows: int, checksum: str = "a", mismatched: int = 0) -> ReconcileSummary:
    digest = Digest(rows, checksum)
    return ReconcileSummary(1, mismatched, digest, digest, datetime(2024, 1, 1, tzinfo=UTC))


def good() -> Outcome:
    tally = Tally(acknowledged=Counter(acme=10, globex=5))
    for probes in tally.probes.values():
        probes.checks = 1
    proofs = prove(
        tally.acknowledged,
        before={"acme": reconciled(100), "globex": reconciled(0)},
        after={"acme": reconciled(110), "globex": reconciled(5, "b")},
    )
    return Outcome(10.0, tally, ISOLATED, proofs, Figures())


def test_all_is_well_when_all_copies_hold_what_was_acknowledged() -> None:
    outcome = good()
    facts = outcome.to_json()
    assert outcome.ok
    assert facts["ok"] is True
    assert facts["points"] == {"acknowledged": 15, "primary": 15, "warehouse": 15}
    assert facts["problems"] == []


def _proofs(**after: ReconcileSummary) -> dict[str, Any]:
    before = {"acme": reconciled(100), "globex": reconciled(0)}
    ends = {"acme": reconciled(110), "globex": reconciled(5)} | after
    return {"proofs": prove(Counter(acme=10, globex=5), before, ends)}


WRONG = {
    "a point is lost": _proofs(acme=reconciled(109)),
    "a point is stored twice": _proofs(acme=reconciled(111)),
    "the warehouse lacks a point": _proofs(
        acme=replace(reconciled(110), warehouse=Digest(109, "a"))
    ),
    "a value differs": _proofs(acme=replace(reconciled(110), warehouse=Digest(110, "b"))),
    "a window differs": _proofs(acme=reconciled(110, mismatched=1)),
    "one tenant's point is another's": _proofs(acme=reconciled(109), globex=reconciled(6)),
    "a foreign entity is seen": {"isolation": replace(ISOLATED, foreign_entities_seen=1)},
    "a foreign canary is seen": {"isolation": replace(ISOLATED, foreign_canaries_seen=1)},
    "a foreign token is accepted": {"isolation": replace(ISOLATED, foreign_tokens_accepted=1)},
    "one's own canary is missed": {"isolation": replace(ISOLATED, own_canaries_missed=1)},
    "isolation was never asked about": {"isolation": IsolationCounts()},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_each_wrong_thing_alone_is_enough(change: dict[str, Any]) -> None:
    outcome = replace(good(), **change)
    assert not outcome.ok
    assert outcome.to_json()["ok"] is False


@pytest.mark.parametrize("tier", TIERS)
def test_a_wrong_answer_or_none_at_all_at_one_tier_is_enough(tier: str) -> None:
    wrong, silent = good(), good()
    wrong.tally.probes[tier].failures = 1
    silent.tally.probes[tier].checks = 0
    assert not wrong.ok
    assert not silent.ok
    assert tier in silent.to_json()["problems"][0]


def test_being_away_for_a_moment_is_not_wrong() -> None:
    outcome = good()
    outcome.tally.probes["replica"].unavailable = 7
    assert outcome.ok


def test_an_unanswered_write_or_nothing_written_at_all_is_wrong() -> None:
    unsettled = good()
    unsettled.tally.unsettled["acme"] = 1
    assert not unsettled.ok
    empty = good()
    empty.tally.acknowledged.clear()
    assert not empty.ok


def test_tiers_are_told_with_their_greatest_lag() -> None:
    figures = Figures(
        tiers=[Tier(Source.REPLICA, "replica-1", available=True, lag=None, breaker="CLOSED")],
        lag_seconds_max={"replica-1": 2.5},
    )
    tiers = replace(good(), figures=figures).to_json()["tiers"]
    assert tiers == {
        "replica-1": {
            "source": "replica",
            "available": True,
            "lag_seconds": None,
            "lag_seconds_max": 2.5,
        }
    }


def test_percentiles_are_of_what_was_added() -> None:
    latencies = Latencies()
    assert latencies.percentile_ms(50) is None
    for milliseconds in range(1, 101):
        latencies.add(milliseconds / 1000)
    assert latencies.percentile_ms(50) == 51
    assert latencies.percentile_ms(99) == 100


def test_this_host_shows_values_of_all_types_of_defined_attributes() -> None:
    defined = {attribute.name: attribute for attribute in HOST_ATTRIBUTES}
    taken = points(HostSampler().sample(), datetime.now(UTC))
    for point in taken:
        assert data_type_of(point.value) is defined[point.attribute].data_type, point
        to_proto(point.value)  # Raises for what cannot be written.
        assert 0 < len(point.entity.encode()) <= 256
    assert {data_type_of(point.value) for point in taken} == set(DataType)
    assert {True, False} == {defined[point.attribute].hot for point in taken}
    kinds = {point.entity.partition("/")[0] for point in taken}
    assert {"process", "cpu", "filesystem", "host"} <= kinds
