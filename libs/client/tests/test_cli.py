"""The command line against a real server in this process."""

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from atlas.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from atlas.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc
from atlas.query.v1 import query_service_pb2, query_service_pb2_grpc
from atlas.type.v1 import error_pb2
from atlas_client import DataType, Endpoints
from atlas_client.cli.output import to_json
from atlas_client.cli.root import build, load_plugin

from .client_rig import Refusal, token

# ruff: noqa: N802 - methods have the names of the contracts' calls.


class Store(
    ingest_service_pb2_grpc.IngestServiceServicer, catalog_service_pb2_grpc.CatalogServiceServicer
):
    """Keeps what is written, once per request id; refuses negative numbers."""

    def __init__(self) -> None:
        self.attributes: dict[str, catalog_service_pb2.Attribute] = {}
        self.points: list[Any] = []
        self.answers: dict[str, Any] = {}
        self.refusal: Refusal | None = None

    async def Write(self, request: Any, context: Any) -> Any:
        if self.refusal is not None:
            await self.refusal.abort(context)
        if request.request_id in self.answers:
            again = ingest_service_pb2.WriteResponse()
            again.CopyFrom(self.answers[request.request_id])
            again.duplicate = True
            return again
        bad = [index for index, point in enumerate(request.points) if point.int_value < 0]
        response = ingest_service_pb2.WriteResponse(
            token=token(l1=len(self.answers) + 1),
            accepted_count=len(request.points) - len(bad),
            rejected_count=len(bad),
            errors=[
                ingest_service_pb2.PointError(
                    index=index,
                    reason=error_pb2.ERROR_REASON_VALUE_OUT_OF_RANGE,
                    field="int_value",
                    message="below 0",
                )
                for index in bad[:100]
            ],
        )
        if not request.validate_only:
            self.points += [p for i, p in enumerate(request.points) if i not in set(bad)]
            self.answers[request.request_id] = response
        return response

    async def _unserved(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    GetStagingStatus = GetProducerPosition = _unserved
    WriteArrow: Any = _unserved
    WriteStream: Any = _unserved
    CreateTenant = UpdateTenant = ListTenants = _unserved
    BatchCreateEntities = ListEntities = _unserved
    ListAdministrativeActs = ListPlatformActs = _unserved

    async def ListAttributes(self, request: Any, context: Any) -> Any:
        return catalog_service_pb2.ListAttributesResponse(attributes=self.attributes.values())

    async def BatchUpsertAttributes(self, request: Any, context: Any) -> Any:
        self.attributes |= {each.name: each for each in request.attributes}
        return catalog_service_pb2.BatchUpsertAttributesResponse(attributes=request.attributes)


class Finder(query_service_pb2_grpc.QueryServiceServicer):
    """Keeps what was asked; finds one pump."""

    def __init__(self) -> None:
        self.requests: list[query_service_pb2.FindEntitiesRequest] = []
        self.aggregates: list[query_service_pb2.AggregateRequest] = []

    async def FindEntities(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        pump = query_service_pb2.EntityState(entity_key="pump-1", entity_id=1)
        return query_service_pb2.FindEntitiesResponse(entities=[pump])

    async def Aggregate(self, request: Any, context: Any) -> Any:
        self.aggregates.append(request)
        count = len(request.functions) + len(request.percentiles)
        row = query_service_pb2.AggregateRow(
            attribute="pressure", results=[7.0, 6.5, 6.99][:count], quality=2
        )
        yield query_service_pb2.AggregateResponse(rows=[row])

    async def _unserved(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    GetEntities = ListTiers = WaitFor = ExplainRoute = _unserved
    GetHistory: Any = _unserved
    WatchEntities: Any = _unserved


@dataclass
class Cli:
    store: Store
    finder: Finder
    target: str

    def run(self, *arguments: str, code: int = 0) -> Any:
        options = ["--ingest", self.target, "--query", self.target, "--tenant", "acme"]
        result = CliRunner().invoke(build(), [*arguments, *options])
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def cli() -> Iterator[Cli]:
    """A server in a thread of its own: a command has an event loop of its own, too."""
    store, finder = Store(), Finder()
    bound, done = threading.Event(), threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        server = grpc.aio.server()
        ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(store, server)
        catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(store, server)
        query_service_pb2_grpc.add_QueryServiceServicer_to_server(finder, server)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        bound.set()
        await asyncio.to_thread(done.wait)
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert bound.wait(10)
        yield Cli(store, finder, f"127.0.0.1:{ports[0]}")
    finally:
        done.set()
        thread.join(10)


@pytest.fixture
def points_csv(tmp_path: Path) -> Path:
    path = tmp_path / "points.csv"
    lines = [f"pump-{n % 3},rpm,2024-01-01T00:00:00Z,{n}" for n in range(12_000)]
    path.write_text("entity,attribute,time,value\n" + "\n".join(lines) + "\n")
    return path


def test_an_import_defines_attributes_and_stores_all(cli: Cli, points_csv: Path) -> None:
    report = cli.json("import", str(points_csv))
    assert report["points"] == {"stored": 12_000, "duplicate": 0, "rejected": 0}
    assert report["attributes_created"] == {"rpm": "int"}
    assert base64.b64decode(report["token"]) == token(l1=3)
    assert sorted(point.int_value for point in cli.store.points) == list(range(12_000))


def test_an_import_run_again_stores_nothing_twice(cli: Cli, points_csv: Path) -> None:
    cli.run("import", str(points_csv))
    report = cli.json("import", str(points_csv))
    assert report["points"] == {"stored": 12_000, "duplicate": 12_000, "rejected": 0}
    assert len(cli.store.points) == 12_000


def test_rejected_rows_are_told_all_of_them(cli: Cli, tmp_path: Path) -> None:
    path, rejects = tmp_path / "a.csv", tmp_path / "rejects.csv"
    values = [-1 if n % 2 else n for n in range(1000)]
    path.write_text("time,value\n" + "".join(f"{n},{v}\n" for n, v in enumerate(values)))
    options = ("--entity-key", "e", "--attribute", "a", "--rejects", str(rejects))
    report = cli.json("import", str(path), *options, code=1)
    assert report["points"]["rejected"] == 500
    assert report["reasons"] == {"VALUE_OUT_OF_RANGE": 500}
    assert [one["row"] for one in report["rejected"]] == list(range(2, 42, 2))
    lines = rejects.read_text().splitlines()
    assert len(lines) == 501
    assert lines[1] == "2,e,a,1,-1,VALUE_OUT_OF_RANGE,below 0"
    shown = cli.run("import", str(path), *options, code=1)
    assert "and 480 more" in shown.stderr
    # The rejects, mended, are a file that imports as it is.
    rejects.write_text(rejects.read_text().replace("-1", "1"))
    assert cli.json("import", str(rejects))["points"]["stored"] == 500


def test_without_leave_no_attribute_is_defined(cli: Cli, points_csv: Path) -> None:
    report = cli.json("import", str(points_csv), "--no-create-attributes", code=1)
    assert report["reasons"] == {"ATTRIBUTE_UNKNOWN": 12_000}
    assert cli.store.attributes == {}


def test_an_unreadable_file_is_code_2(cli: Cli, tmp_path: Path) -> None:
    result = cli.run("import", str(tmp_path / "nope.csv"), code=2)
    assert "No such file" in result.stderr
    assert result.stdout == ""


def test_unclear_columns_are_code_2(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("when,value\n1,2\n")
    assert "--map time=COLUMN" in cli.run("import", str(path), code=2).stderr


def test_a_refusal_is_code_1_and_says_what_is_stored(cli: Cli, points_csv: Path) -> None:
    cli.store.refusal = Refusal(grpc.StatusCode.NOT_FOUND, "TENANT_UNKNOWN", "no tenant 'acme'")
    result = cli.run("import", str(points_csv), code=1)
    assert "NOT_FOUND/TENANT_UNKNOWN: no tenant 'acme'" in result.stderr
    assert "stopped after 0 points" in result.stderr


def test_write_reads_values_by_their_attributes_types(cli: Cli) -> None:
    for name, data_type in (("serial", DataType.TEXT), ("price", DataType.DECIMAL)):
        cli.store.attributes[name] = catalog_service_pb2.Attribute(
            name=name, data_type=data_type.to_proto()
        )
    result = cli.json("write", "pump-1", "serial=0012", "price=1.50", "new=7", "--time", "0")
    assert result["accepted_count"] == 3
    serial, price, new = cli.store.points
    assert (serial.text_value, price.decimal_value, new.int_value) == ("0012", "1.50", 7)
    assert serial.event_time_us == 0
    assert "no time" in cli.run("write", "pump-1", "a=1", "--time", "soon", code=2).stderr
    assert "ATTRIBUTE=VALUE" in cli.run("write", "pump-1", "a", code=2).stderr


def test_find_reads_conditions_by_their_attributes_types(cli: Cli) -> None:
    for name, data_type in (("serial", DataType.TEXT), ("price", DataType.DECIMAL)):
        cli.store.attributes[name] = catalog_service_pb2.Attribute(
            name=name, data_type=data_type.to_proto()
        )
    where = "serial in (0012, 'a, b') and not (price < 1.50 or exists(note))"
    found = cli.json("find", "price>=1", "serial=00 12", "--where", where)
    assert [state["entity"] for state in found["entities"]] == ["pump-1"]
    price, serial, among, negated = cli.finder.requests[0].filter.all_of.filters
    assert price.range.min.decimal_value == "1"
    assert serial.equals.value.text_value == "00 12"
    assert [value.text_value for value in getattr(among, "in").values] == ["0012", "a, b"]
    lower, note = getattr(negated, "not").any_of.filters
    assert (lower.range.max_exclusive.decimal_value, note.exists.attribute) == ("1.50", "note")


def test_find_says_what_is_wrong_with_a_condition(cli: Cli) -> None:
    cli.store.attributes["price"] = catalog_service_pb2.Attribute(
        name="price", data_type=DataType.DECIMAL.to_proto()
    )
    for arguments, problem in (
        ((), "give a condition"),
        (("price",), "ATTRIBUTE=VALUE"),
        (("price>dear",), "is no DECIMAL"),
        (("--where", "(price>1"), "expected )"),
    ):
        result = cli.run("find", *arguments, code=2)
        assert problem in " ".join(result.stderr.replace("│", " ").split())
    assert cli.finder.requests == []


def test_attributes_are_listed(cli: Cli) -> None:
    cli.store.attributes["rpm"] = catalog_service_pb2.Attribute(
        name="rpm", data_type=DataType.INT.to_proto(), hot=True
    )
    assert cli.json("attributes")[0]["data_type"] == "int"
    assert "rpm" in cli.run("attributes").stdout


@pytest.mark.parametrize(
    ("given", "says"),
    [("rows=1", "calls_per_second"), ("entities=1.5", "NAME=NUMBER"), ("entities", "NAME=NUMBER")],
)
def test_a_quota_that_is_none_is_code_2(given: str, says: str) -> None:
    command = ["tenants", "--ingest", "127.0.0.1:1", "--update", "acme", "--quota", given]
    result = CliRunner().invoke(build(), command)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_platform_that_is_away_is_code_3(tmp_path: Path) -> None:
    away = ["--query", "127.0.0.1:1", "--tenant", "a", "--timeout", "0.2"]
    assert CliRunner().invoke(build(), ["get", "e", *away]).exit_code == 3
    nothing = CliRunner().invoke(build(), ["tiers", "--state", str(tmp_path)])
    assert nothing.exit_code == 3
    assert "atlas up" in nothing.stderr
    unknown = CliRunner().invoke(build(), ["tenants", "--query", "127.0.0.1:1"])
    assert unknown.exit_code == 2
    assert "no address of ingest" in unknown.stderr


def test_endpoints_come_from_a_state_directory(tmp_path: Path) -> None:
    services = {"ingest": "h:1", "query": "h:2", "hotcache": "h:3", "cdc-reconciler": "h:4"}
    (tmp_path / "endpoints.json").write_text(json.dumps({"services": services}))
    expected = Endpoints(ingest="h:1", query="h:2", hotcache="h:3", reconciler="h:4")
    assert Endpoints.from_state(tmp_path) == expected
    (tmp_path / "endpoints.json").write_text("[]")
    result = CliRunner().invoke(build(), ["tiers", "--state", str(tmp_path)])
    assert result.exit_code == 2


def _entry_point(value: str) -> EntryPoint:
    return EntryPoint("own", value, "atlas.commands")


@pytest.mark.parametrize("value", ["no_such_module:app", f"{__name__}:absent", "json:dumps"])
def test_a_broken_plugin_costs_a_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_plugin(_entry_point(value)) is None
    assert "plug-in 'own'" in capsys.readouterr().err


def test_every_command_has_help_with_an_example() -> None:
    for command in build().registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        result = CliRunner().invoke(build(), [name, "--help"])
        assert result.exit_code == 0
        if command.callback.__module__.startswith("atlas_client"):
            assert "Example: atlas" in result.stdout
            assert "Exit codes" in result.stdout


def test_json_holds_what_json_has_no_form_for() -> None:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    values = [float("nan"), Decimal("1.50"), moment, b"\x01", DataType.INT, {"a": (1,)}]
    assert json.loads(json.dumps(to_json(values))) == [
        "nan",
        "1.50",
        "2024-01-01T00:00:00Z",
        "AQ==",
        "int",
        {"a": [1]},
    ]


def test_percentiles_and_qualities_are_asked_and_shown(cli: Cli) -> None:
    asked = ["aggregate", "pressure", "-f", "last", "-p", "50", "-p", "99.9", "--by-quality"]
    (row,) = cli.json(*asked)["rows"]
    assert row["results"] == {"last": 7.0}
    assert row["percentiles"] == {"50.0": 6.5, "99.9": 6.99}
    assert row["quality"] == 2
    heads = cli.run(*asked).stdout.split("\n")[0].split()
    assert heads == ["entity", "attribute", "bucket", "quality", "last", "p50", "p99.9"]
    request = cli.finder.aggregates[0]
    assert list(request.functions) == [query_service_pb2.AGGREGATE_FUNCTION_LAST]
    assert (list(request.percentiles), request.group_by_quality) == ([50.0, 99.9], True)
    # A percentile alone is enough; nothing at all is a count.
    cli.run("aggregate", "pressure")
    assert list(cli.finder.aggregates[-1].functions) == [query_service_pb2.AGGREGATE_FUNCTION_COUNT]
