"""`atlas produce` against a real server in this process."""

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.catalog.v1 import catalog_service_pb2_grpc
from atlas.ingest.v1 import ingest_service_pb2_grpc
from atlas.type.v1 import value_pb2
from atlas_client.cli.root import build

from .producer_rig import Ingest, Store

# ruff: noqa: N802 - methods have the names of the contracts' calls.


class Catalog(catalog_service_pb2_grpc.CatalogServiceServicer):
    async def ListAttributes(self, request: Any, context: Any) -> Any:
        rpm = catalog_pb.Attribute(name="rpm", data_type=value_pb2.DATA_TYPE_INT)
        return catalog_pb.ListAttributesResponse(attributes=[rpm])


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def target(store: Store) -> Iterator[str]:
    """The server has a thread and a loop of its own: the command runs one in this thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server()
        ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(Ingest(store), server)
        catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(Catalog(), server)  # type: ignore[abstract]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    yield f"127.0.0.1:{port}"
    asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def produce(target: str, *lines: Any, tenant: str = "acme") -> Any:
    text = "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines)
    arguments = ["produce", "gw", "--ingest", target, "--tenant", tenant, "--json"]
    return CliRunner().invoke(build(), arguments, input=text)


def line(value: Any, **fields: Any) -> dict[str, Any]:
    return {"entity": "pump-1", "attribute": "rpm", "value": value, **fields}


def test_lines_become_points_of_their_tenant(target: str, store: Store) -> None:
    result = produce(target, line(1, time="2024-01-01T00:00:00Z"), "", line("2", quality=192))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["accepted_points"] == 2
    produce(target, line(3), tenant="globex")
    assert store.values == {"acme": [1, 2], "globex": [3]}
    first, second = store.batches[0].points
    assert first.event_time_us == 1_704_067_200_000_000
    assert second.quality == 192


def test_bad_lines_are_told_and_the_others_stored(target: str, store: Store) -> None:
    result = produce(
        target, "{", {"entity": "x"}, "[]", line("fast"), line(1, attribute="bad"), line(2)
    )
    assert result.exit_code == 1
    assert store.values["acme"] == [2]
    for words in ("line 1:", "line 2: it has no 'attribute'", "line 3: not a", "line 4:", "bad"):
        assert words in result.stderr
