"""What rules and dashboards ask for, the running platform exports, and Prometheus finds."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atlas_devstack.platform import SERVICES
from atlas_devstack.servers import ServerOptions
from atlas_devstack.waiting import Patience

from .observed import Observed, observed
from .prometheus import PROGRAM, Prometheus
from .rule_files import (
    ROOT,
    alarm_metrics,
    alerts,
    panel_queries,
    rules,
    used_boundaries,
    used_labels,
    used_metrics,
)
from .scrape import Scrape, series_names

PATIENCE_SECONDS = 60.0
# What a healthy platform without TLS has no series of; that it is exported, other tests show.
NOT_HERE = {
    "atlas_tls_certificate_expires_seconds": "test_rpc_tls.py",
    "atlas_reconciler_held_tables": "a series for each table that is held",
    "atlas_reconciler_dead_letters": "a series for each class of letters",
    "atlas_ingest_retention_unfinished": "a series for each result of steps that are due",
}
# Values of labels that only what goes wrong has.
GONE_WRONG = ('status=~"failed|unfinished"',)
# Labels of what does not happen here.
NOT_YET = {
    ("atlas_query_server_changes_total", "change"),
    ("atlas_query_misses_total", "why"),
    ("atlas_hotcache_checks_total", "outcome"),
}


@pytest.fixture(scope="module")
def platform(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Observed]:
    """One that has worked for two tenants."""
    with observed(tmp_path_factory.mktemp("observed") / "state", server_options) as found:
        # What is missing then, the tests say by name.
        found.work_until(
            lambda: not (_metrics_missing(found.scrape) or _labels_missing(found.scrape)),
            PATIENCE_SECONDS,
        )
        yield found


@pytest.fixture(scope="module")
def scrape(platform: Observed) -> Scrape:
    return platform.scrape


@pytest.fixture(scope="module")
def prometheus(
    platform: Observed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """One that scrapes the platform, and has evaluated every rule."""
    if PROGRAM is None:
        pytest.skip("prometheus is not installed (Debian's package prometheus has it)")
    directory = tmp_path_factory.mktemp("prometheus")
    server = Prometheus(directory, platform.scrape.target, Patience(PATIENCE_SECONDS))
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _metrics_missing(found: Scrape) -> set[str]:
    return set(used_metrics()) - found.labels.keys() - NOT_HERE.keys()


def _labels_missing(found: Scrape) -> set[tuple[str, str]]:
    return {
        (metric, label)
        for metric, label in used_labels() - NOT_YET
        if metric not in NOT_HERE and label not in found.labels.get(metric, ())
    }


def test_every_metric_that_is_used_is_exported(scrape: Scrape) -> None:
    assert _metrics_missing(scrape) == set()


def test_every_label_that_is_selected_by_is_exported(scrape: Scrape) -> None:
    assert _labels_missing(scrape) == set()


def test_boundaries_that_objectives_count_by_are_those_of_the_histogram(scrape: Scrape) -> None:
    assert used_boundaries()
    for histogram, boundary in used_boundaries():
        assert boundary in scrape.buckets[histogram]


def test_services_are_jobs_of_their_names_and_are_never_silent(scrape: Scrape) -> None:
    assert scrape.jobs["atlas_rpc_server_active"] == {f"atlas/{name}" for name in SERVICES}


@pytest.mark.timeout(240)
def test_prometheus_scrapes_it_and_every_recording_rule_has_a_value(
    platform: Observed, prometheus: Prometheus
) -> None:
    missing = {_series(rule) for rule in rules() if "record" in rule}

    def complete() -> bool:
        missing.difference_update([series for series in missing if prometheus.query(series)])
        return not missing

    # Twice the interval of the slowest group, and what a rate needs.
    assert platform.work_until(complete, 120), missing
    assert prometheus.up() == {"atlas": "up", "prometheus": "up"}


def _series(rule: dict[str, Any]) -> str:
    labels = rule.get("labels", {})
    matchers = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{rule['record']}{{{matchers}}}"


@pytest.mark.timeout(120)
def test_prometheus_evaluates_every_rule_and_nothing_fires_on_a_healthy_platform(
    platform: Observed, prometheus: Prometheus
) -> None:
    def evaluated() -> bool:
        return all(rule["health"] != "unknown" for rule in prometheus.rules())

    assert platform.work_until(evaluated, PATIENCE_SECONDS)
    found = prometheus.rules()
    assert {rule["name"] for rule in found if rule["type"] == "alerting"} == set(alerts())
    assert [rule for rule in found if rule["health"] != "ok" or "lastError" in rule] == []
    assert prometheus.firing() == set()


@pytest.mark.timeout(120)
def test_every_panel_is_drawn_from_what_prometheus_has(
    platform: Observed, prometheus: Prometheus
) -> None:
    empty = {query for query in panel_queries() if not _is_rare(query)}
    assert len(empty) > 60

    def drawn() -> bool:
        empty.difference_update([query for query in empty if _drawn(prometheus, query)])
        return not empty

    assert platform.work_until(drawn, PATIENCE_SECONDS), empty


def _is_rare(query: str) -> bool:
    not_yet = (f"{metric}{{{label}" for metric, label in NOT_YET)
    marks = [*NOT_HERE, *not_yet, *GONE_WRONG, "ALERTS{"]
    return any(mark in query for mark in marks)


def _drawn(prometheus: Prometheus, query: str) -> bool:
    asked = query.replace("$__rate_interval", "1m")
    jobs = [f"atlas/{name}" for name in SERVICES] if "$service" in asked else [""]
    return any(prometheus.query(asked.replace("$service", job)) for job in jobs)


@pytest.mark.timeout(420)
def test_an_alert_fires_for_a_replica_that_is_stopped_and_ends_when_it_is_back(
    platform: Observed, prometheus: Prometheus
) -> None:
    expected = {("ReplicaLagHigh", "replica-1"), ("BreakerOpen", "replica-1")}
    replica = platform.stack.postgres.replicas[0]
    replica.stop()
    try:
        fired = platform.work_until(lambda: expected <= prometheus.firing(), 200)
        firing = prometheus.firing()
    finally:
        replica.start()
    assert fired, firing
    assert firing == expected, "of what else is healthy, nothing is said"
    assert platform.work_until(lambda: not prometheus.firing(), 120), prometheus.firing()


def test_every_metric_that_is_used_is_made_somewhere() -> None:
    """Also those that are not here."""
    made = {name for path in ROOT.glob("*/*/src/**/*.py") for name in _made(path)}
    assert used_metrics() <= made


def test_every_metric_of_an_alarm_in_aws_is_made_somewhere() -> None:
    sources = [path.read_text() for path in ROOT.glob("*/*/src/**/*.py")]
    assert alarm_metrics() <= {name for text in sources for _, name, _ in _METRIC.findall(text)}


_METRIC = re.compile(
    r'metrics\.(counter|up_down_counter|histogram|gauge)\(\s*"([a-z0-9._]+)",\s*"([^"]+)"'
)


def _made(path: Path) -> Iterator[str]:
    for kind, name, unit in _METRIC.findall(path.read_text()):
        yield from series_names(
            name, unit, kind.removeprefix("up_down_") if kind != "up_down_counter" else "gauge"
        )
