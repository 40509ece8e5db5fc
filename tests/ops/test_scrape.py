"""What rules and dashboards ask for, the running platform exports."""

import asyncio
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from atlas_client import (
    AtlasClient,
    Attribute,
    DataType,
    Endpoints,
    Point,
    eventual,
    strong,
)
from atlas_devstack.platform import SERVICES
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions

from .rule_files import ROOT, alarm_metrics, used_boundaries, used_labels, used_metrics
from .scrape import Scrape, scraping, series_names

PATIENCE_SECONDS = 60.0
# What a healthy platform without TLS has no series of; that it is exported, other tests show.
NOT_HERE = {
    "atlas_tls_certificate_expires_seconds": "test_rpc_tls.py",
    "atlas_reconciler_held_tables": "a series for each table that is held",
    "atlas_reconciler_dead_letters": "a series for each class of letters",
    "atlas_ingest_retention_unfinished": "a series for each result of steps that are due",
}
# Labels of what does not happen here.
NOT_YET = {
    ("atlas_query_server_changes_total", "change"),
    ("atlas_query_misses_total", "why"),
    ("atlas_hotcache_checks_total", "outcome"),
}


@pytest.fixture(scope="module")
def scrape(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Scrape]:
    """The platform's metrics, after some work for two tenants."""
    with scraping() as found:
        environment = {
            name: {
                "ATLAS_TELEMETRY__OTLP_ENDPOINT": found.endpoint,
                "ATLAS_TELEMETRY__METRICS_INTERVAL_SECONDS": "0.5",
            }
            for name in SERVICES
        }
        environment["cdc-reconciler"] |= {"ATLAS_RECONCILE__INTERVAL_SECONDS": "0.5"}
        options = StackOptions(servers=server_options, environment=environment)
        with Stack.start(tmp_path_factory.mktemp("observed") / "state", options) as stack:
            asyncio.run(_exercised(stack, found))
            yield found


async def _exercised(stack: Stack, found: Scrape) -> None:
    endpoints = Endpoints.from_json(stack.endpoints.to_json())
    tenants = [f"observed-{secrets.token_hex(4)}" for _ in range(2)]
    async with AtlasClient.connect(endpoints) as client:
        for tenant in tenants:
            await client.create_tenant(tenant)
            await client.for_tenant(tenant).upsert_attributes(
                [Attribute("pressure", DataType.DOUBLE, hot=True)]
            )
        # What is missing then, the tests say by name.
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while _metrics_missing(found) or _labels_missing(found):
                    for tenant in tenants:
                        await _worked(client.for_tenant(tenant))


async def _worked(atlas: AtlasClient) -> None:
    await atlas.write([Point("pump-1", "pressure", 4.2)])
    for consistency in (strong(), eventual(timedelta(seconds=60))):
        await atlas.get_entities(["pump-1"], consistency=consistency)


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
