"""What is said first of a platform that is not as it is meant to be."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from atlas_client.cli import top
from atlas_client.overview import Overview, banners, view
from atlas_client.policies import Policy, PolicyRun
from atlas_client.records import (
    CacheStatus,
    Lane,
    PipelineStatus,
    Source,
    StagingStatus,
    TenantVerification,
    Tier,
    Verifications,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def tier(source: Source, lag: float | None, **fields: Any) -> Tier:
    made = {"endpoint": source.value, "available": True, "breaker": "CLOSED", **fields}
    return Tier(source, lag=None if lag is None else timedelta(seconds=lag), **made)


def pipeline(**fields: Any) -> PipelineStatus:
    made: dict[str, Any] = {
        "phase": "streaming", "applied_lsn": "0/1", "lag": timedelta(), "read_total": 2,
        "applied_total": 2, "dead_lettered_total": 0, "skipped_total": 0, "warehouse_rows": 2,
        "slot_retained_bytes": 0, "as_of": NOW, "reason": "",
    }  # fmt: skip
    return PipelineStatus(**{**made, **fields})


def proofs(*ages: float | None, mismatched: int = 0) -> Verifications:
    through = [None if age is None else NOW - timedelta(seconds=age) for age in ages]
    return Verifications(
        tuple(
            TenantVerification(key, moment, NOW, mismatched, 0, None, 0)
            for key, moment in zip(("acme", "globex"), through, strict=False)
        ),
        len(ages),
        timedelta(seconds=300),
    )


def policy(status: str) -> Policy:
    run = PolicyRun(status, NOW, NOW, "[red]what came of it[/red]", "a", 1, 0)
    return Policy(1, "partitions", True, (), timedelta(hours=1), True, True, NOW, run, None, False)


def overview(**parts: Any) -> Overview:
    tiers = parts.pop("tiers", ())
    return Overview(NOW, tiers=tuple(view(one) for one in tiers), **parts)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"tiers": [tier(Source.REPLICA, 2.9), tier(Source.PRIMARY, None)]}, []),
        (
            {"tiers": [tier(Source.REPLICA, 4.2)]},
            [("critical", "replica lag 4.2 s exceeds the budget of 3.0 s")],
        ),
        (
            {"tiers": [tier(Source.WAREHOUSE, 301), tier(Source.REPLICA, None)]},
            [
                ("critical", "warehouse lag 301.0 s exceeds the budget of 300.0 s"),
                ("critical", "replica lag is unknown: no recent heartbeat"),
            ],
        ),
        (
            {"tiers": [tier(Source.REPLICA, 1, breaker="OPEN", endpoint="replica-1")]},
            [("warning", "replica-1: replica has its breaker OPEN")],
        ),
        (
            {"tiers": [tier(Source.REPLICA, 1, available=False, note="it has another history")]},
            [("critical", "replica is not read: it has another history")],
        ),
        (
            {"pipeline": pipeline(phase="paused", dead_letters_open=1200)},
            [("critical", "the pipeline is paused"), ("warning", "1,200 dead letters are open")],
        ),
        (
            {"pipeline": pipeline(conserved=False)},
            [("critical", "the books of the pipeline do not balance")],
        ),
        ({"verifications": proofs(299, 1)}, []),
        (
            {"verifications": proofs(301, None)},
            [("warning", "the verified past is older than the budget: acme, globex")],
        ),
        (
            {"verifications": proofs(1, mismatched=2)},
            [("critical", "the warehouse differs from the primary: acme")],
        ),
        (
            {"policies": (policy("failed"), policy("success"))},
            [("warning", "policy partitions failed: [red]what came of it[/red]")],
        ),
        ({"problems": {"cache": "no answer"}}, [("critical", "cache: no answer")]),
        (
            {"staging": StagingStatus(0, 1, 0, 0, (Lane(0, True, 1, 1_000_001, 0, None, ""),))},
            [
                (
                    "critical",
                    "staging holds 1,000,001 points that are not flushed, more than 1,000,000",
                )
            ],
        ),
        (
            {"cache": CacheStatus(False, 0, 0, 0, 0, 0, None)},
            [("warning", "the cache is away: hot reads go to the primary")],
        ),
    ],
)
def test_what_is_not_as_meant_is_told_in_the_words_of_readers(
    parts: dict[str, Any], told: list[tuple[str, str]]
) -> None:
    found = banners(overview(**parts))
    assert [(banner.severity, banner.text) for banner in found] == told


def test_it_is_drawn_whole_also_with_parts_missing_and_texts_are_no_markup() -> None:
    found = overview(
        tiers=[tier(Source.REPLICA, 1.5)],
        pipeline=pipeline(),
        verifications=proofs(10, None),
        policies=(policy("success"),),
        problems={"staging": "away"},
    )
    console = Console(width=200, record=True, markup=False, file=io.StringIO())
    console.print(top.render(found))
    text = console.export_text()
    for shown in ("1.50 s", "acme", "globex", "partitions", "[red]what came of it[/red]"):
        assert shown in text
