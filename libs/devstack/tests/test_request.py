"""What a detached supervisor is handed is what was asked for."""

import pytest

from atlas_devstack.endpoints import Endpoints
from atlas_devstack.errors import DevstackError
from atlas_devstack.platform import check_names
from atlas_devstack.request import UpRequest


def test_a_request_survives_its_journey() -> None:
    request = UpRequest(
        state="/somewhere",
        services=("ingest",),
        tenants=(),
        pg_dsn="postgresql://admin:secret@127.0.0.1/atlas",
        replica_dsns=("a", "b"),
        kafka=True,
        fresh=True,
    )
    assert UpRequest.from_json(request.to_json()) == request


def test_endpoints_survive_their_journey() -> None:
    endpoints = Endpoints({"query": "127.0.0.1:1"}, "a", ["b", "c"], None, "d", ["acme", "globex"])
    assert Endpoints.from_json(endpoints.to_json()) == endpoints


def test_endpoints_name_the_broker_and_its_topic() -> None:
    endpoints = Endpoints({}, "a", [], None, "d", [], kafka="127.0.0.1:2", topic="writes-1")
    assert Endpoints.from_json(endpoints.to_json()) == endpoints


def test_an_unknown_service_is_named() -> None:
    with pytest.raises(DevstackError, match="called injest; there are ingest, hotcache, query"):
        check_names(("query", "injest"))
