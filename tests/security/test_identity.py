"""Attacks on every call of every service, which fail; and the way in, which does not."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from google.protobuf.descriptor import MethodDescriptor
from typer.testing import CliRunner

from atlas.hotcache.v1 import hotcache_service_pb2
from atlas_client import AggregateFunction, AtlasClient, AtlasError, Point, Source
from atlas_client.cli.root import build
from atlas_client.consistency import analytics, at_least_as_fresh, strong
from atlas_devstack.authority import Authority
from atlas_devstack.issuer import Issuer
from atlas_devstack.platform import SERVICES as KINDS
from atlas_devstack.verified import PEERS

from .fortress import ALL_SCOPES, METHODS, Fortress, access, path, refusal

every_method = pytest.mark.parametrize(
    ("service", "method"), METHODS, ids=[method.full_name for _, method in METHODS]
)


@pytest.fixture(scope="module")
def channels(held: Fortress) -> Iterator[dict[str, grpc.Channel]]:
    """A channel to each service as callers with tokens have it."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(held.channel(name)) for name in KINDS}


@pytest.fixture(scope="module")
def forged(held: Fortress) -> dict[str, tuple[str, str]]:
    """Tokens that are none, with the reason that each has to be refused for."""
    issuer, now = held.verified.issuer, int(time.time())
    good: dict[str, Any] = {"tenant": "acme", "scopes": ALL_SCOPES}
    claims = issuer.token(**good).split(".")[1]
    public = issuer.private_key().public_key()
    secret = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    hmac = f"{_segment({'alg': 'HS256', 'kid': issuer.key_id})}.{claims}"
    mark = jwt.get_algorithm_by_name("HS256").sign(hmac.encode(), secret)
    unknown, same_id = Issuer("RS256"), Issuer()
    unknown.rotate()
    unknown.rotate()
    same_id.key_id, same_id._keys = issuer.key_id, {issuer.key_id: same_id._keys["key-1"]}
    invalid = "CREDENTIALS_INVALID"
    return {
        "alg none": (f"{_segment({'alg': 'none', 'kid': issuer.key_id})}.{claims}.", invalid),
        "HS256 by the public key": (f"{hmac}.{_text(mark)}", invalid),
        "another audience": (issuer.token(**good, aud="billing"), invalid),
        "another issuer": (issuer.token(**good, iss="https://evil.test"), invalid),
        "past its end": (issuer.token(**good, exp=now - 3600), "CREDENTIALS_EXPIRED"),
        "not yet": (issuer.token(**good, nbf=now + 3600), invalid),
        "endless": (issuer.token(**good, exp=None), invalid),
        "unknown key": (unknown.token(**good), invalid),
        "another key of the same id": (same_id.token(**good), invalid),
        "no token": ("abc", invalid),
    }


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _segment(value: Any) -> str:
    return _text(json.dumps(value).encode())


@every_method
def test_nobody_gets_in_nowhere(
    channels: dict[str, grpc.Channel], service: str, method: MethodDescriptor
) -> None:
    for tenant in (None, "acme"):
        error = refusal(channels[service], method, None, tenant)
        assert (error.code.name, error.reason) == ("UNAUTHENTICATED", "CREDENTIALS_MISSING")


@every_method
def test_forged_tokens_get_in_nowhere(
    channels: dict[str, grpc.Channel],
    forged: dict[str, tuple[str, str]],
    service: str,
    method: MethodDescriptor,
) -> None:
    for name, (token, reason) in forged.items():
        error = refusal(channels[service], method, token)
        assert (name, error.code.name, error.reason) == (name, "UNAUTHENTICATED", reason)
        assert token not in error.message


@every_method
def test_each_call_needs_its_own_scope(
    held: Fortress, channels: dict[str, grpc.Channel], service: str, method: MethodDescriptor
) -> None:
    needed = access(method).scope
    others = [scope for scope in ALL_SCOPES if scope != needed]
    token = held.token("acme", [*others, "tenant.any", "platform.internal"])
    error = refusal(channels[service], method, token)
    assert (error.code.name, error.reason) == ("PERMISSION_DENIED", "SCOPE_MISSING")
    assert error.metadata["scope"] == needed


@pytest.mark.parametrize(
    ("service", "method"),
    [(service, method) for service, method in METHODS if not access(method).tenantless],
    ids=[method.full_name for _, method in METHODS if not access(method).tenantless],
)
def test_another_tenant_cannot_be_named(
    held: Fortress, channels: dict[str, grpc.Channel], service: str, method: MethodDescriptor
) -> None:
    told = set()
    for tenant in ("globex", "nobody"):
        error = refusal(channels[service], method, held.token("acme"), tenant)
        assert (error.code.name, error.reason) == ("PERMISSION_DENIED", "TENANT_FORBIDDEN")
        told.add(error.message)
    assert len(told) == 1, "whether a tenant exists is told to who must not know"


def test_every_scope_is_some_methods(held: Fortress) -> None:
    assert {access(method).scope for _, method in METHODS} == {*ALL_SCOPES, "platform.internal"}


@pytest.mark.parametrize("service", PEERS)
def test_peers_get_no_connection_without_a_certificate_of_ours(
    held: Fortress, service: str, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    attackers = {
        "none": None,
        "another authority's": Authority(tmp_path).issue("query.atlas"),
        "one past its end": held.verified.authority.issue(
            "query.atlas", not_before=now - timedelta(days=9), not_after=now - timedelta(days=1)
        ),
    }
    method = next(method for name, method in METHODS if name == service)
    for name, certificate in attackers.items():
        with held.channel(service, certificate, for_peers=True) as channel:
            error = refusal(channel, method, held.token("acme"))
            assert (name, error.code.name) == (name, "UNAVAILABLE")


@pytest.mark.parametrize(
    ("service", "method"),
    [(service, method) for service, method in METHODS if service in PEERS],
    ids=[method.full_name for service, method in METHODS if service in PEERS],
)
def test_a_peer_may_what_it_is_configured_for_and_no_more(
    held: Fortress, service: str, method: MethodDescriptor
) -> None:
    names = {"printer.atlas": None, **PEERS[service]}
    for name, scopes in names.items():
        if scopes is not None and access(method).scope in scopes:
            continue
        certificate = held.verified.authority.issue(name)
        with held.channel(service, certificate, for_peers=True) as channel:
            error = refusal(channel, method, None, "acme")
        expected = "CREDENTIALS_INVALID" if scopes is None else "SCOPE_MISSING"
        assert (name, error.reason) == (name, expected)


def test_a_service_in_the_clear_is_not_there(held: Fortress) -> None:
    for service in KINDS:
        method = next(method for name, method in METHODS if name == service)
        with grpc.insecure_channel(held.target(service)) as channel:
            assert refusal(channel, method, held.token("acme")).code.name == "UNAVAILABLE"


def test_a_user_cannot_say_what_services_tell_each_other(held: Fortress) -> None:
    """Nor by a certificate that is good for another call."""
    method = hotcache_service_pb2.DESCRIPTOR.services_by_name["HotCacheService"].methods_by_name[
        "InvalidateEntities"
    ]
    token = held.token("acme", [*ALL_SCOPES, "platform.internal", "tenant.any"])
    query = held.verified.certificates["query"]
    for certificate, shown in ((held.verified.certificates["ingest"], token), (query, None)):
        with held.channel("hotcache", certificate, for_peers=True) as channel:
            assert refusal(channel, method, shown).reason == "SCOPE_MISSING"


async def test_the_platform_works_for_those_who_may(held: Fortress) -> None:
    """Through all services: written, invalidated, cached, copied, each tenant its own."""
    written: dict[str, bytes] = {}
    for number, tenant in enumerate(("acme", "globex"), 1):
        async with held.client(held.token(tenant)) as client:
            done = await client.write([Point("pump-1", "rpm", number)])
            written[tenant] = done.token
    for number, tenant in enumerate(("acme", "globex"), 1):
        async with held.client(held.token(tenant, ["telemetry.read"])) as client:
            fresh = at_least_as_fresh(written[tenant])
            read = await client.get_entities(["pump-1"], consistency=fresh)
            assert read["pump-1"].values["rpm"] == number
            await _until_from_cache(client, number)
            copied = analytics(token=written[tenant], wait_timeout=timedelta(seconds=60))
            rows = client.aggregate(
                ["rpm"], [AggregateFunction.MAX], entities=["pump-1"], consistency=copied
            )
            async for row in rows:  # Query asks the reconciler, likewise.
                assert row.results[AggregateFunction.MAX] == number
    await _until_told(held)


async def _until_told(held: Fortress) -> None:
    """Ingest tells hotcache what a flush changed, by its certificate."""
    log = held.stack.state.logs / "hotcache.log"
    deadline = time.monotonic() + 60
    async with held.client(held.token("globex")) as client:
        while True:
            await client.write([Point("pump-3", "rpm", 3)])
            calls = [line for line in log.read_text().splitlines() if "InvalidateEntities" in line]
            told = [json.loads(line) for line in calls]
            if any((line.get("caller"), line["code"]) == ("ingest.atlas", "OK") for line in told):
                return
            assert time.monotonic() < deadline, told[-3:]


async def _until_from_cache(client: AtlasClient, number: int) -> None:
    """Query asks hotcache, by its certificate, for the token's tenant."""
    deadline = time.monotonic() + 60
    while True:
        read = await client.get_entities(["pump-1"])
        assert read["pump-1"].values["rpm"] == number
        if read.metadata.source is Source.CACHE:
            return
        assert time.monotonic() < deadline, read.metadata


async def test_operators_are_written_down(held: Fortress) -> None:
    async with held.client(held.token("acme")) as client:
        await client.write([Point("pump-2", "rpm", 7)])
    token = held.verified.issuer.token(
        subject="olga@atlas.test", scopes=["telemetry.read", "tenant.any"]
    )
    async with held.client(token, tenant="acme") as operator:
        read = await operator.get_entities(["pump-2"], consistency=strong())
        assert read["pump-2"].values["rpm"] == 7
        with pytest.raises(AtlasError) as caught:  # To name any tenant is no right to write there.
            await operator.write([Point("pump-2", "rpm", 8)])
        assert caught.value.reason == "SCOPE_MISSING"
    log = (held.stack.state.logs / "query.log").read_text()
    lines = [json.loads(line) for line in log.splitlines() if "cross-tenant access" in line]
    audited = [line for line in lines if line["caller"] == "olga@atlas.test"]
    assert [(line["tenant"], line["method"]) for line in audited] == [
        ("acme", "/atlas.query.v1.QueryService/GetEntities")
    ]
    assert audited[0]["request_id"]


async def test_tokens_are_in_no_log(held: Fortress) -> None:
    token = held.token("acme")
    signature = token.split(".")[2]
    async with held.client(token) as client:
        await client.get_entities(["pump-1"], consistency=strong())
    for service, method in METHODS:
        with held.channel(service) as channel:
            refusal(channel, method, token[:-8] + "AAAAAAAA")
    for log in held.stack.state.logs.iterdir():
        assert signature[:-8] not in log.read_text(errors="replace"), log


def test_the_command_line_takes_a_token_and_an_authority(held: Fortress, tmp_path: Path) -> None:
    endpoints = json.loads(held.stack.endpoints.to_json())
    token_file = tmp_path / "token"
    token_file.write_text(held.token("acme", ["telemetry.read"]) + "\n")
    endpoints["security"] = {
        "ca_file": str(held.verified.authority.ca_file),
        "token_file": str(token_file),
    }
    (tmp_path / "endpoints.json").write_text(json.dumps(endpoints))
    command = ["get", "pump-1", "--tenant", "acme", "--json"]
    told = CliRunner().invoke(build(), [*command, "--state", str(tmp_path)])
    assert told.exit_code == 0, told.output
    variables = {
        "ATLAS_QUERY": held.target("query"),
        "ATLAS_TLS_CA_FILE": str(held.verified.authority.ca_file),
        "ATLAS_BEARER_TOKEN": held.token("globex", ["telemetry.read"]),
    }
    refused = CliRunner().invoke(build(), command, env=variables)
    assert refused.exit_code == 1
    assert "TENANT_FORBIDDEN" in refused.output
    del variables["ATLAS_BEARER_TOKEN"]
    refused = CliRunner().invoke(build(), command, env=variables)
    assert "CREDENTIALS_MISSING" in refused.output


def test_who_the_tenants_are_is_for_operators(
    held: Fortress, channels: dict[str, grpc.Channel]
) -> None:
    """Not for the administrators of one of them."""
    method = next(method for _, method in METHODS if method.name == "ListTenants")
    token = held.token("acme", ["catalog.admin", "telemetry.read"])
    error = refusal(channels["ingest"], method, token)
    assert error.reason == "SCOPE_MISSING"
    ingest: Any = channels["ingest"]
    answer = ingest.unary_unary(path(method))(
        b"", metadata=(("authorization", f"Bearer {held.token(None)}"),), timeout=60
    )
    assert b"globex" in answer
