"""The age of the verified past: measured, and growing while nothing can be measured."""

from atlas_cdc_reconciler.verified_age import VerifiedAges

SECOND_US = 1_000_000


def test_nothing_is_known_before_the_first_round() -> None:
    ages = VerifiedAges(300.0)
    assert ages.worst_seconds(10.0) == -1.0
    assert ages.breaches(10.0) == []


def test_the_tenant_furthest_behind_counts() -> None:
    ages = VerifiedAges(300.0)
    ages.note("acme", 1_000 * SECOND_US, 990 * SECOND_US, 50.0)
    ages.note("globex", 1_000 * SECOND_US, 650 * SECOND_US, 50.0)
    assert ages.worst_seconds(50.0) == 350.0
    assert ages.breaches(50.0) == ["globex"]
    ages.note("globex", 1_001 * SECOND_US, 1_001 * SECOND_US, 51.0)
    assert ages.worst_seconds(51.0) == 11.0
    assert ages.breaches(51.0) == []


def test_an_outage_ages_everything() -> None:
    ages = VerifiedAges(300.0)
    ages.note("acme", 1_000 * SECOND_US, 1_000 * SECOND_US, 50.0)
    assert ages.breaches(350.0) == []
    assert ages.breaches(350.1) == ["acme"]
    assert ages.worst_seconds(400.0) == 350.0
