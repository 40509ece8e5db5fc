"""Clocks of hosts that are wrong, and set while all runs: lag stays true, freshness stays met."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import libfaketime
import pytest

from atlas.type.v1 import consistency_pb2
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions
from tests.integration.query_reading import (
    ACME,
    GLOBEX,
    STRONG,
    T0,
    TENANTS,
    TOKEN_ENVIRONMENT,
    Reading,
    at_least,
    eventual,
    lag,
    pressure,
    values,
)

HOUR_SECONDS = 3600
STALL_SECONDS = 1.5
SIGNS = {ACME: 1.0, GLOBEX: -1.0}
NODES = ("primary", "replica-1")
LIBRARY = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="libfaketime is not built for this")


@dataclass
class Clocks:
    """The wall clock of each server, as seconds off the truth; monotonic clocks are left alone."""

    directory: Path

    def set(self, **seconds: int) -> None:
        """At once, for all of a server's processes; `replica`, `primary`. Others are right."""
        for node in NODES:
            offset = seconds.get(node.partition("-")[0], 0)
            partial = self._file(node).with_suffix(".partial")
            partial.write_text(f"{offset:+d}\n")
            partial.chmod(0o644)
            partial.replace(self._file(node))

    def environment(self) -> dict[str, dict[str, str]]:
        """For the servers. They run under another account, which reads no home directory."""
        library = shutil.copy(LIBRARY, self.directory)
        return {
            node: {
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(self._file(node)),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
            for node in NODES
        }

    def _file(self, node: str) -> Path:
        return self.directory / f"{node}.clock"


class Written:
    """Values that rise, and when (by this process's monotonic clock) each was committed."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self.number = 0
        self.committed_at = 0.0

    def write(self) -> bytes:
        """The next value of both tenants; acme's token."""
        self.number += 1
        at = T0 + timedelta(seconds=self.number)
        token = self._reading.write(
            pressure(tenant_id, sign * self.number, at=at) for tenant_id, sign in SIGNS.items()
        )
        self.committed_at = time.monotonic()
        return token

    def read(
        self, consistency: consistency_pb2.Consistency, tenant: int = ACME
    ) -> tuple[int, consistency_pb2.ReadMetadata]:
        """The number read."""
        answer = self._reading.get("pump-1", consistency=consistency, tenant=tenant)
        found = values(answer.entities[0])["pressure"] * SIGNS[tenant]
        return int(found), answer.metadata


@pytest.fixture(scope="module")
def clocks() -> Iterator[Clocks]:
    directory = Path(tempfile.mkdtemp(prefix="atlas-clocks-"))
    directory.chmod(0o755)
    try:
        clocks = Clocks(directory)
        clocks.set()
        yield clocks
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def reading(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions, clocks: Clocks
) -> Iterator[Reading]:
    """Query over a primary and one replica, whose clocks can be set."""
    postgres = replace(server_options.postgres, replicas=1, environment=clocks.environment())
    servers = replace(server_options.embedded(), postgres=postgres, valkey=False)
    options = StackOptions(
        services=("query",), servers=servers, environment={"query": TOKEN_ENVIRONMENT}
    )
    stack = Stack.start(tmp_path_factory.mktemp("skewed") / "state", options)
    try:
        reading = Reading(stack)
        try:
            yield reading
        finally:
            reading.close()
    finally:
        stack.remove()


@pytest.fixture
def written(reading: Reading, clocks: Clocks) -> Iterator[Written]:
    written = Written(reading)
    written.number = int(time.monotonic() * 10)  # Higher than what any test before has written.
    yield written
    clocks.set()
    reading.wait_fresh("primary", "replica-1")


@pytest.mark.parametrize(
    "skew",
    [
        {"primary": HOUR_SECONDS},
        {"primary": -HOUR_SECONDS},
        {"replica": HOUR_SECONDS},
        # Query, and everybody else, an hour behind both.
        {"primary": HOUR_SECONDS, "replica": HOUR_SECONDS},
    ],
    ids=["primary ahead", "primary behind", "replica ahead", "servers ahead"],
)
def test_lag_is_true_whoever_has_the_wrong_clock(
    reading: Reading, clocks: Clocks, written: Written, skew: dict[str, int]
) -> None:
    clocks.set(**skew)
    assert abs(off_by(reading) - skew.get("primary", 0)) < 60
    reading.wait_fresh("primary", "replica-1")
    token = written.write()
    reading.stack.postgres.wait_caught_up()
    for tenant in TENANTS:
        assert written.read(eventual(60.0), tenant)[0] == written.number
    assert written.read(at_least(token))[0] == written.number
    with reading.paused("replica-1"):
        paused_at = time.monotonic()
        before = lag(reading.tiers()["replica-1"])
        written.write()
        reading.wait_lagging(before + STALL_SECONDS, "replica-1")
        # It grows as time does, whatever the clocks say.
        grown = lag(reading.tiers()["replica-1"]) - before
        assert grown < time.monotonic() - paused_at + 0.5
        check_stalled(reading, written)
    reading.wait_fresh("replica-1")
    assert written.read(eventual(1.0))[0] == written.number


def test_no_copy_becomes_fresher_when_the_primarys_clock_is_set_back(
    reading: Reading, clocks: Clocks, written: Written
) -> None:
    """A replica that stalls holds a beat that is from the future then."""
    reading.wait_fresh("primary", "replica-1")
    written.write()
    reading.stack.postgres.wait_caught_up()
    with reading.paused("replica-1"):
        written.write()
        for step in (-HOUR_SECONDS, -HOUR_SECONDS - 2, HOUR_SECONDS):
            clocks.set(primary=step)
            until = time.monotonic() + 1
            while time.monotonic() < until:
                check_stalled(reading, written)
    # The heart beats on by the clock as it is: the replica is trusted again as soon as it has that.
    reading.wait_fresh("primary", "replica-1")
    assert written.read(eventual(1.0))[0] == written.number


def off_by(reading: Reading) -> float:
    """How far the primary's clock is ahead of ours, in seconds."""
    row = reading.admin.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()
    assert row is not None
    return float(row[0]) - time.time()


def check_stalled(reading: Reading, written: Written) -> None:
    """The replica lacks the last value: it is never called fresher than that, nor taken for it."""
    asked_at = time.monotonic()
    true_lag = asked_at - written.committed_at
    assert lag(reading.tiers()["replica-1"]) >= true_lag
    number, proof = written.read(eventual(7200.0))
    assert number in {written.number - 1, written.number}
    if number < written.number:
        assert not proof.HasField("lag") or proof.lag.ToTimedelta().total_seconds() >= true_lag
    number, proof = written.read(eventual(max(0.01, true_lag - 0.05)))
    assert (number, proof.source) == (written.number, consistency_pb2.SOURCE_PRIMARY)
    assert written.read(STRONG, GLOBEX)[0] == written.number
