"""The whole road, driven through gRPC alone: two tenants whose entities have the same keys."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from atlas_client import (
    AckLevel,
    AggregateFunction,
    AtlasClient,
    AtlasError,
    Attribute,
    DataType,
    Endpoints,
    EntitiesResult,
    Json,
    OnUnmet,
    Point,
    Source,
    analytics,
    at_least_as_fresh,
    eventual,
    strong,
)
from atlas_client.cli.root import build
from atlas_devstack.stack import Stack

T0 = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
SECOND = timedelta(seconds=1)
PATIENCE_SECONDS = 20.0

# One value of each type, another for each tenant; a JSON document is read as what it holds.
TYPED: dict[str, tuple[DataType, Any, Any]] = {
    "flag": (DataType.BOOL, True, False),
    "count": (DataType.INT, 2**63 - 1, -(2**63)),
    "ratio": (DataType.DOUBLE, 0.1, float("inf")),
    "price": (DataType.DECIMAL, Decimal("12345678901234567890.12345678"), Decimal("-0.5")),
    "label": (DataType.TEXT, 'grüße, "quoted" \\ and\nbroken', ""),
    "seen": (DataType.TIME, T0 + timedelta(microseconds=1), datetime(1999, 1, 1, tzinfo=UTC)),
    "info": (DataType.JSON, {"a": [1, None, "x"]}, []),
}


@dataclass(frozen=True)
class Pair:
    """Two tenants of one test."""

    acme: AtlasClient
    globex: AtlasClient

    def __iter__(self) -> Any:
        return iter((self.acme, self.globex))


def attributes() -> list[Attribute]:
    return [
        Attribute(f"{warmth}.{name}", data_type, hot=warmth == "hot")
        for name, (data_type, _, _) in TYPED.items()
        for warmth in ("hot", "cold")
    ]


def typed_points(which: int, moment: datetime) -> list[Point]:
    return [
        Point("pump-1", f"{warmth}.{name}", row[1 + which], moment)
        for name, row in TYPED.items()
        for warmth in ("hot", "cold")
    ]


def expected(which: int, warmth: str) -> dict[str, Any]:
    return {f"{warmth}.{name}": row[1 + which] for name, row in TYPED.items()}


@pytest.fixture
def endpoints(stack: Stack) -> Endpoints:
    return Endpoints.from_json(stack.endpoints.to_json())


@pytest.fixture
async def pair(endpoints: Endpoints) -> AsyncIterator[Pair]:
    async with AtlasClient.connect(endpoints, timeout=30) as anyone:
        run = secrets.token_hex(4)
        clients = []
        for name in ("acme", "globex"):
            await anyone.create_tenant(f"{name}-{run}")
            client = anyone.for_tenant(f"{name}-{run}")
            await client.upsert_attributes(attributes())
            clients.append(client)
        yield Pair(*clients)


async def until(source: Source, read: Callable[[], Awaitable[EntitiesResult]]) -> EntitiesResult:
    """Read until this tier answers: the first read of an entity fills the cache, for example."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            result = await read()
            if result.metadata.source is source:
                return result


async def test_every_type_comes_back_from_every_tier(pair: Pair) -> None:
    tokens = []
    for which, client in enumerate(pair):
        result = await client.write(typed_points(which, T0))
        assert result.accepted_count == 14
        assert result.ack is AckLevel.DURABLE
        tokens.append(result.token)
    for which, client in enumerate(pair):
        both = expected(which, "hot") | expected(which, "cold")
        from_primary = await client.get_entities(
            ["pump-1"], include_cold=True, consistency=strong()
        )
        assert from_primary["pump-1"].values == both
        assert from_primary.metadata.source is Source.PRIMARY
        fresh = at_least_as_fresh(tokens[which], on_unmet=OnUnmet.WAIT)
        from_replica = await client.get_entities(["pump-1"], include_cold=True, consistency=fresh)
        assert from_replica["pump-1"].values == both
        assert from_replica.metadata.source is Source.REPLICA
        assert from_replica.metadata.endpoint in {"replica-1", "replica-2"}

        async def hot(client: AtlasClient = client, token: bytes = tokens[which]) -> EntitiesResult:
            return await client.get_entities(["pump-1"], consistency=at_least_as_fresh(token))

        from_cache = await until(Source.CACHE, hot)
        assert from_cache["pump-1"].values == expected(which, "hot")
        assert {reading.time for reading in from_cache["pump-1"].readings} == {T0}


async def test_the_warehouse_aggregates_what_was_written(pair: Pair) -> None:
    for which, client in enumerate(pair):
        values = [float(n * 10**which) for n in range(1, 6)]
        result = await client.write(
            [Point("pump-1", "cold.ratio", v, T0 + n * SECOND) for n, v in enumerate(values)]
            + [Point("pump-2", "cold.ratio", 1000.0, T0)]
        )
        fresh = analytics(token=result.token, wait_timeout=timedelta(seconds=15))
        functions = list(AggregateFunction)
        stream = client.aggregate(
            ["cold.ratio"], functions, entities=["pump-1"], consistency=fresh, group_by_entity=True
        )
        (row,) = [row async for row in stream]
        assert row.entity == "pump-1"
        assert row.results == {
            AggregateFunction.COUNT: 5,
            AggregateFunction.SUM: sum(values),
            AggregateFunction.AVG: sum(values) / 5,
            AggregateFunction.MIN: values[0],
            AggregateFunction.MAX: values[-1],
            AggregateFunction.FIRST: values[0],
            AggregateFunction.LAST: values[-1],
        }
        assert stream.metadata is not None
        assert stream.metadata.source is Source.WAREHOUSE
        bucketed = client.aggregate(
            ["cold.ratio"],
            [AggregateFunction.COUNT],
            start=T0,
            end=T0 + 4 * SECOND,
            bucket=2 * SECOND,
            consistency=fresh,
        )
        buckets = {row.bucket_time: row.results[AggregateFunction.COUNT] async for row in bucketed}
        assert sum(buckets.values()) == 5  # Four of pump-1 and one of pump-2.


async def test_a_session_reads_its_own_writes_wherever_it_reads(pair: Pair) -> None:
    sessions = [client.session() for client in pair]
    for number in range(5):
        for session in sessions:
            await session.write(
                [
                    Point("pump-1", f"{warmth}.count", number, T0 + number * SECOND)
                    for warmth in ("hot", "cold")
                ]
            )
        for session in sessions:
            hot = await session.get_entities(["pump-1"])
            assert hot["pump-1"].values["hot.count"] == number
            cold = await session.get_entities(
                ["pump-1"], attributes=["cold.count"], consistency=eventual()
            )
            assert cold["pump-1"].values == {"cold.count": number}
            found = [state.entity async for state in session.find_entities({"hot.count": number})]
            assert found == ["pump-1"]
            seen = [reading.value async for reading in session.history("pump-1")]
            assert len(seen) == 2 * (number + 1)


async def test_finding_is_by_equality_of_hot_attributes_page_by_page(pair: Pair) -> None:
    for which, client in enumerate(pair):
        points = typed_points(which, T0)
        points += [Point(f"valve-{n}", "hot.label", "open", T0) for n in range(5)]
        points += [Point("valve-0", "hot.flag", True, T0)]
        await client.write(points)
    for which, client in enumerate(pair):
        for name, (data_type, *values) in TYPED.items():
            value = Json(values[which]) if data_type is DataType.JSON else values[which]
            found = client.find_entities({f"hot.{name}": value}, consistency=strong())
            assert "pump-1" in [state.entity async for state in found], name
        opened = client.find_entities({"hot.label": "open"}, page_size=2, consistency=strong())
        assert [state.entity async for state in opened] == [f"valve-{n}" for n in range(5)]
        both = client.find_entities({"hot.label": "open", "hot.flag": True}, consistency=strong())
        assert [state.entity async for state in both] == ["valve-0"]
        other = client.find_entities({"hot.count": TYPED["count"][2 - which]}, consistency=strong())
        assert [state.entity async for state in other] == []


async def test_a_decimal_of_all_its_38_digits_is_found(pair: Pair) -> None:
    price = Decimal("12345678901234567890.123456789012345678")
    await pair.acme.write([Point("pump-1", "hot.price", price, T0)])
    await pair.globex.write([Point("pump-1", "hot.price", -price, T0)])
    for client, value in ((pair.acme, price), (pair.globex, -price)):
        state = await client.get_entities(["pump-1"], consistency=strong())
        assert state["pump-1"].values == {"hot.price": value}
        found = client.find_entities({"hot.price": value}, consistency=strong())
        assert [each.entity async for each in found] == ["pump-1"]


async def test_history_is_half_open_ordered_and_of_one_tenant(pair: Pair) -> None:
    for which, client in enumerate(pair):
        points = [
            Point("pump-1", "cold.count", 100 * which + n, T0 + n * SECOND, quality=n)
            for n in range(10)
        ]
        await client.write(reversed(points))
    for which, client in enumerate(pair):
        stream = client.history(
            "pump-1", start=T0 + 2 * SECOND, end=T0 + 5 * SECOND, consistency=strong()
        )
        readings = [reading async for reading in stream]
        assert [reading.value for reading in readings] == [100 * which + n for n in (2, 3, 4)]
        assert [reading.quality for reading in readings] == [2, 3, 4]
        limited = client.history("pump-1", limit=4, consistency=strong())
        assert len([reading async for reading in limited]) == 4
    with pytest.raises(AtlasError) as caught:
        await anext(pair.acme.history("pump-99"))
    assert caught.value.reason == "ENTITY_UNKNOWN"


async def test_a_late_point_is_history_and_never_the_latest(pair: Pair) -> None:
    for which, client in enumerate(pair):
        session = client.session()
        names = ("hot.count", "cold.count")
        await session.write([Point("pump-1", name, 10 + which, T0) for name in names])
        await session.write([Point("pump-1", name, 99, T0 - SECOND) for name in names])
        for consistency in (strong(), None):
            state = await session.get_entities(
                ["pump-1"], include_cold=True, consistency=consistency
            )
            assert state["pump-1"].values == dict.fromkeys(names, 10 + which)
        history = session.history("pump-1", attributes=["cold.count"])
        assert [reading.value async for reading in history] == [99, 10 + which]


async def test_a_request_id_is_stored_once_per_tenant(pair: Pair) -> None:
    point = Point("pump-1", "cold.count", 1, T0)
    for client in pair:
        first = await client.write([point], request_id="r1")
        again = await client.write([point], request_id="r1")
        assert (first.duplicate, again.duplicate) == (False, True)
        assert again.accepted_count == 1
        with pytest.raises(AtlasError) as caught:
            await client.write([point, point], request_id="r1")
        assert caught.value.reason == "REQUEST_ID_REUSED"
        stored = client.history("pump-1", consistency=strong())
        assert len([reading async for reading in stored]) == 1


async def test_bad_points_are_told_one_by_one_and_the_rest_is_stored(pair: Pair) -> None:
    points = [
        Point("pump-1", "cold.count", 1, T0),
        Point("pump-1", "cold.count", "1", T0),
        Point("pump-1", "unheard-of", 1, T0),
        Point("p" * 300, "cold.count", 1, T0),
        Point("pump-1", "cold.price", Decimal("NaN"), T0),
        Point("pump-1", "cold.label", "a\0b", T0),
    ]
    reasons = [
        "TYPE_MISMATCH",
        "ATTRIBUTE_UNKNOWN",
        "ENTITY_KEY_INVALID",
        "VALUE_NOT_FINITE",
        "TEXT_HAS_NUL",
    ]
    for client in pair:
        result = await client.write(points, partial_success=True)
        assert (result.accepted_count, result.rejected_count) == (1, 5)
        assert [(error.index, error.reason) for error in result.errors] == list(
            enumerate(reasons, 1)
        )
        with pytest.raises(AtlasError) as caught:
            await client.write(points[:2])
        assert caught.value.reason == "TYPE_MISMATCH"
        stored = client.history("pump-1", consistency=strong())
        assert [reading.value async for reading in stored] == [1]


async def test_nothing_of_one_tenant_is_seen_by_the_other(pair: Pair) -> None:
    written = await pair.acme.write(
        [Point("only-acme", "hot.label", "secret", T0), Point("pump-1", "hot.label", "secret", T0)]
    )
    await pair.globex.write([Point("pump-1", "hot.label", "public", T0)])
    for consistency in (strong(), eventual(), None):
        seen = await pair.globex.get_entities(["only-acme", "pump-1"], consistency=consistency)
        assert seen.not_found == ("only-acme",)
        assert [state.values for state in seen] == [{"hot.label": "public"}]
    found = pair.globex.find_entities({"hot.label": "secret"}, consistency=strong())
    assert [state async for state in found] == []
    assert [e.key async for e in pair.globex.list_entities()] == ["pump-1"]

    token = written.token
    reads: list[Awaitable[Any]] = [
        pair.globex.get_entities(["pump-1"], consistency=at_least_as_fresh(token)),
        pair.globex.get_entities(["pump-1"], consistency=eventual(token=token)),
        anext(pair.globex.history("pump-1", consistency=at_least_as_fresh(token))),
        anext(pair.globex.find_entities({"hot.label": "x"}, consistency=at_least_as_fresh(token))),
        anext(
            pair.globex.aggregate(
                ["hot.label"], [AggregateFunction.COUNT], consistency=analytics(token=token)
            )
        ),
    ]
    for read in reads:
        with pytest.raises(AtlasError) as caught:
            await read
        assert caught.value.reason == "TOKEN_WRONG_TENANT"
    broken = token[:-1] + bytes([token[-1] ^ 1])
    with pytest.raises(AtlasError) as caught:
        await pair.acme.get_entities(["pump-1"], consistency=at_least_as_fresh(broken))
    assert caught.value.reason == "TOKEN_TAMPERED"


async def test_both_copies_are_proven_equal_to_the_last_row(pair: Pair) -> None:
    counts = (700, 300)
    for client, count in zip(pair, counts, strict=True):
        await client.write(
            [Point(f"pump-{n % 7}", "cold.count", n, T0 + n * SECOND) for n in range(count)]
        )
        await client.write(typed_points(0, T0))
    summaries = []
    for client, count in zip(pair, counts, strict=True):
        began = datetime.now(UTC)
        summary = await client.reconcile(timeout=60).summary()
        assert summary.matched
        assert summary.source.row_count == summary.warehouse.row_count == count + 14
        assert summary.verified_through is not None
        assert summary.verified_through > began - timedelta(seconds=5)
        verification = await client.get_verification()
        assert verification.verified_through == summary.verified_through
        # What was verified may be asked for.
        rows = client.aggregate(
            ["cold.count"],
            [AggregateFunction.COUNT],
            consistency=analytics(min_verified_through=summary.verified_through),
        )
        (row,) = [row async for row in rows]
        assert row.results[AggregateFunction.COUNT] == count + 1
        again = await client.reconcile(from_start=True, timeout=60).summary()
        assert again.matched
        assert again.source == summary.source
        summaries.append(summary)
    assert summaries[0].source.checksum != summaries[1].source.checksum


async def test_an_unknown_tenant_is_told(pair: Pair) -> None:
    for call in (
        pair.acme.for_tenant("no-such").write([Point("e", "a", 1, T0)]),
        pair.acme.for_tenant("no-such").get_entities(["e"]),
    ):
        with pytest.raises(AtlasError) as caught:
            await call
        assert caught.value.reason == "TENANT_UNKNOWN"


async def test_every_tier_is_listed_with_its_lag(pair: Pair) -> None:
    tiers = {tier.endpoint: tier for tier in await pair.acme.list_tiers()}
    assert {tier.source for tier in tiers.values()} == set(Source)
    assert {"replica-1", "replica-2"} <= tiers.keys()
    assert (await pair.acme.pipeline_status()).phase == "streaming"
    assert (await pair.acme.cache_status()).connected
    assert (await pair.acme.staging_status()).pending_points_max > 0


def test_a_file_is_imported_once_however_often(
    stack: Stack, endpoints: Endpoints, tmp_path: Path
) -> None:
    tenant = f"import-{secrets.token_hex(4)}"

    async def prepare() -> None:
        async with AtlasClient.connect(endpoints) as client:
            for key in (tenant, f"{tenant}-other"):
                await client.create_tenant(key)

    asyncio.run(prepare())

    def atlas(*arguments: str, code: int = 0) -> Any:
        options = ["--state", str(stack.state.path), "--json"]
        result = CliRunner().invoke(build(), [*arguments, *options])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    rows = [f"{T0 + n * SECOND / 10},{n / 2}" for n in range(12_000)]
    rows[17] = "2024-01-01,hot"
    path = tmp_path / "series.csv"
    path.write_text("timestamp,value\n" + "\n".join(rows) + "\n")
    load = ("import", str(path), "--entity-key", "sensor", "--attribute", "temperature")
    asyncio.run(_define_double(endpoints, tenant))
    first = atlas(*load, "--tenant", tenant, code=1)
    assert first["points"] == {"stored": 11_999, "duplicate": 0, "rejected": 1}
    assert [(one["row"], one["reason"]) for one in first["rejected"]] == [(18, "TYPE_MISMATCH")]
    again = atlas(*load, "--tenant", tenant, code=1)
    assert again["points"] == {"stored": 11_999, "duplicate": 11_999, "rejected": 1}
    proof = atlas("reconcile", "--tenant", tenant)
    assert proof["summary"]["source"]["row_count"] == 11_999
    latest = atlas("get", "sensor", "--all", "--tenant", tenant, "--token", first["token"])
    assert latest["entities"][0]["readings"][0]["value"] == 11_999 / 2
    assert atlas("get", "sensor", "--tenant", f"{tenant}-other", code=1)["not_found"] == ["sensor"]


async def _define_double(endpoints: Endpoints, tenant: str) -> None:
    async with AtlasClient.connect(endpoints, tenant=tenant) as client:
        await client.upsert_attributes([Attribute("temperature", DataType.DOUBLE)])
