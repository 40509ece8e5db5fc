"""Who may call what, and for whom, on a real server."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from pydantic import ValidationError

from atlas.type.v1 import access_pb2
from atlas_common import telemetry
from atlas_common.caller import METHOD_SCOPES
from atlas_common.config import IdentityConfig, RpcConfig, ServiceConfig, TelemetryConfig
from atlas_common.errors import FatalError
from atlas_common.identity.peers import Peers
from atlas_common.rpc import Access, authenticator, call_chain, declared_access
from atlas_common.tenant import Tenant
from atlas_common.testing import KnownTenants, serving
from atlas_devstack.issuer import AUDIENCE, ISSUER, Issuer

from .echo_service import NAME, Echo, add, call, failure

ACCESSES = {
    f"/{NAME}/UnaryUnary": Access("telemetry.read"),
    f"/{NAME}/UnaryStream": Access("telemetry.write"),
    f"/{NAME}/StreamUnary": Access("platform.status", tenantless=True),
}  # Of StreamStream it is not known who may call it.


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    issuer = Issuer()
    issuer.publish(tmp_path / "jwks.json")
    return issuer


def service_config(tmp_path: Path, environment: str = "prod", **identity: Any) -> ServiceConfig:
    jwt = {"jwks": str(tmp_path / "jwks.json"), "issuer": ISSUER, "audience": AUDIENCE}
    return ServiceConfig.model_validate(
        {"environment": environment, "identity": {"jwt": jwt, **identity}}
    )


@asynccontextmanager
async def echoing(config: ServiceConfig) -> AsyncIterator[grpc.aio.Channel]:
    chain = call_chain(
        RpcConfig(),
        authenticator=authenticator(config),
        tenants=KnownTenants(Tenant(1, "acme"), Tenant(2, "globex")),
        accesses=ACCESSES,
    )
    with telemetry.setup("echo", TelemetryConfig()):
        async with serving(Echo(), add=add, chain=chain) as channel:
            yield channel


@pytest.fixture
async def channel(tmp_path: Path, issuer: Issuer) -> AsyncIterator[grpc.aio.Channel]:
    async with echoing(service_config(tmp_path)) as channel:
        yield channel


def bearer(token: str, tenant: str | None = None) -> tuple[tuple[str, str], ...]:
    named = () if tenant is None else (("x-atlas-tenant", tenant),)
    return (("authorization", f"Bearer {token}"), *named)


async def test_the_tenant_is_that_of_the_token(channel: grpc.aio.Channel, issuer: Issuer) -> None:
    for tenant in ("acme", "globex"):
        token = issuer.token(tenant=tenant, scopes=["telemetry.read"])
        for metadata in (bearer(token), bearer(token, tenant)):
            (answer,) = await call(channel, "UnaryUnary", b"who", metadata=metadata)
            assert answer.split()[0] == tenant.encode()


async def test_another_tenant_is_refused_whether_it_exists_or_not(
    channel: grpc.aio.Channel, issuer: Issuer
) -> None:
    token = issuer.token(tenant="acme", scopes=["telemetry.read"])
    told = set()
    for tenant in ("globex", "no-such"):
        error, _ = await failure(channel, "UnaryUnary", b"who", metadata=bearer(token, tenant))
        assert (error.code.name, error.reason) == ("PERMISSION_DENIED", "TENANT_FORBIDDEN")
        told.add(error.message)
    assert len(told) == 1


async def test_a_call_without_its_scope_is_refused_by_name(
    channel: grpc.aio.Channel, issuer: Issuer
) -> None:
    token = issuer.token(tenant="acme", scopes=["telemetry.read", "tenant.any"])
    error, _ = await failure(channel, "UnaryStream", b"who", metadata=bearer(token))
    assert (error.code.name, error.reason) == ("PERMISSION_DENIED", "SCOPE_MISSING")
    assert error.metadata["scope"] == "telemetry.write"


async def test_tenantless_calls_need_their_scope_and_no_tenant(
    channel: grpc.aio.Channel, issuer: Issuer
) -> None:
    token = issuer.token(scopes=["platform.status"])
    (answer,) = await call(channel, "StreamUnary", b"who", metadata=bearer(token))
    assert answer.startswith(b"None ")
    error, _ = await failure(channel, "StreamUnary", b"who", metadata=bearer(issuer.token()))
    assert error.reason == "SCOPE_MISSING"


async def test_a_token_of_no_tenant_reaches_none(channel: grpc.aio.Channel, issuer: Issuer) -> None:
    token = issuer.token(scopes=["telemetry.read"])
    error, _ = await failure(channel, "UnaryUnary", b"who", metadata=bearer(token))
    assert (error.code.name, error.reason) == ("UNAUTHENTICATED", "TENANT_MISSING")
    error, _ = await failure(channel, "UnaryUnary", b"who", metadata=bearer(token, "acme"))
    assert (error.code.name, error.reason) == ("PERMISSION_DENIED", "TENANT_FORBIDDEN")


async def test_operators_may_name_any_tenant_and_it_is_written_down(
    channel: grpc.aio.Channel, issuer: Issuer
) -> None:
    token = issuer.token(subject="olga", tenant="acme", scopes=["telemetry.read", "tenant.any"])
    with structlog.testing.capture_logs() as lines:
        for tenant in ("acme", "globex"):
            (answer,) = await call(channel, "UnaryUnary", b"who", metadata=bearer(token, tenant))
            assert answer.split()[0] == tenant.encode()
    audited = [line for line in lines if line["event"] == "cross-tenant access"]
    assert [(line["caller"], line["caller_tenant"], line["tenant"]) for line in audited] == [
        ("olga", "acme", "globex")
    ]
    assert audited[0]["method"] == f"/{NAME}/UnaryUnary"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "CREDENTIALS_MISSING"),
        ((("x-atlas-tenant", "acme"),), "CREDENTIALS_MISSING"),
        ((("authorization", ""),), "CREDENTIALS_INVALID"),
        ((("authorization", "Basic YTpi"),), "CREDENTIALS_INVALID"),
        ((("authorization", "Bearer"),), "CREDENTIALS_INVALID"),
        ((("authorization", "Bearer "),), "CREDENTIALS_INVALID"),
        ((("authorization", "Bearer a"), ("authorization", "Bearer b")), "CREDENTIALS_INVALID"),
    ],
)
async def test_who_does_not_say_who_he_is_gets_in_nowhere(
    channel: grpc.aio.Channel, metadata: Any, reason: str
) -> None:
    for arity in ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"):
        error, _ = await failure(channel, arity, b"who", metadata=metadata)
        assert (error.code.name, error.reason) == ("UNAUTHENTICATED", reason)


async def test_what_is_not_declared_nobody_may_call(
    channel: grpc.aio.Channel, issuer: Issuer
) -> None:
    token = issuer.token(tenant="acme", scopes=sorted(METHOD_SCOPES))
    error, _ = await failure(channel, "StreamStream", b"who", metadata=bearer(token))
    assert (error.code.name, error.reason) == ("PERMISSION_DENIED", "SCOPE_MISSING")


async def test_two_tenants_in_one_call_are_none(channel: grpc.aio.Channel, issuer: Issuer) -> None:
    token = issuer.token(tenant="acme", scopes=["telemetry.read", "tenant.any"])
    metadata = (*bearer(token, "acme"), ("x-atlas-tenant", "globex"))
    error, _ = await failure(channel, "UnaryUnary", b"who", metadata=metadata)
    assert (error.code.name, error.reason) == ("UNAUTHENTICATED", "TENANT_MISSING")


async def test_a_stream_ends_with_its_token(tmp_path: Path, issuer: Issuer) -> None:
    config = service_config(tmp_path)
    assert config.identity.jwt is not None
    strict = config.identity.jwt.model_copy(update={"leeway_seconds": 0.0})
    identity = config.identity.model_copy(update={"jwt": strict})
    async with echoing(config.model_copy(update={"identity": identity})) as channel:
        token = issuer.token(tenant="globex", scopes=["telemetry.write"], exp=int(time.time()) + 3)
        error, _ = await failure(channel, "UnaryStream", b"wait", metadata=bearer(token))
        assert (error.code.name, error.reason) == ("UNAUTHENTICATED", "CREDENTIALS_EXPIRED")
        assert error.message.startswith("the token has ended: begin the stream again")


def test_insecure_is_refused_outside_development(tmp_path: Path) -> None:
    for environment in ("staging", "prod"):
        with pytest.raises(FatalError, match=f"insecure is refused in environment '{environment}'"):
            authenticator(service_config(tmp_path, environment, mode="insecure"))


def test_insecure_is_told_loudly(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        authenticator(service_config(tmp_path, "dev", mode="insecure"))
    assert [line["log_level"] for line in lines] == ["warning"]
    assert lines[0]["event"].startswith("INSECURE: callers are not verified")


@pytest.mark.parametrize(
    ("identity", "problem"),
    [
        ({}, "it is not set how callers are verified: set ATLAS_IDENTITY__JWT__JWKS"),
        ({"peers": {"query.atlas": ["telemetry.read"]}}, "PEERS needs client certificates"),
        (
            {"jwt": {"jwks": "http://idp.test/keys", "issuer": "i", "audience": "a"}},
            "JWKS: http is refused in environment 'prod'",
        ),
    ],
)
def test_identities_that_are_not_safe_do_not_start(identity: Any, problem: str) -> None:
    config = ServiceConfig.model_validate({"environment": "prod", "identity": identity})
    with pytest.raises(FatalError, match=problem):
        authenticator(config)


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS512", "ES256K", ""])
def test_symmetric_algorithms_cannot_be_chosen(algorithm: str) -> None:
    jwt = {"jwks": "f", "issuer": "i", "audience": "a", "algorithms": [algorithm]}
    with pytest.raises(ValidationError, match="algorithms"):
        IdentityConfig.model_validate({"jwt": jwt})


def test_scopes_of_peers_have_to_exist() -> None:
    with pytest.raises(ValidationError, match=r"there is no scope telemetry\.raed"):
        IdentityConfig.model_validate({"peers": {"query.atlas": ["telemetry.raed"]}})


def test_peers_are_known_by_uri_or_dns_name_and_by_nothing_else() -> None:
    peers = Peers({"spiffe://atlas/query": ["telemetry.read"], "ingest.atlas": []})

    def found(**context: bytes) -> str | None:
        caller = peers.find({name: [value] for name, value in context.items()})
        return None if caller is None else caller.subject

    assert found(peer_uri=b"spiffe://atlas/query") == "spiffe://atlas/query"
    assert found(peer_dns=b"ingest.atlas") == "ingest.atlas"
    assert found(peer_dns=b"spiffe://atlas/query") is None
    assert found(peer_uri=b"ingest.atlas") is None
    assert found(x509_common_name=b"ingest.atlas") is None
    assert found(peer_dns=b"evil.ingest.atlas", peer_email=b"ingest.atlas") is None


def described(declared: access_pb2.Access | None) -> ServiceDescriptor:
    """A service with one method that declares this."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"test/{time.monotonic_ns()}.proto", package="test", syntax="proto3"
    )
    file.message_type.add(name="Nothing")
    method = file.service.add(name="Service").method.add(
        name="Open", input_type=".test.Nothing", output_type=".test.Nothing"
    )
    if declared is not None:
        method.options.Extensions[access_pb2.access].CopyFrom(declared)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName("test.Service")


def test_a_method_that_does_not_say_who_may_call_it_stops_the_service() -> None:
    with pytest.raises(FatalError, match=r"test\.Service\.Open does not say who may call it"):
        declared_access([described(None)])
    with pytest.raises(FatalError, match=r"test\.Service\.Open needs the scope ''"):
        declared_access([described(access_pb2.Access())])
    with pytest.raises(FatalError, match=r"needs the scope 'telemetry\.raed', which is none of"):
        declared_access([described(access_pb2.Access(scope="telemetry.raed"))])
    assert declared_access([described(access_pb2.Access(scope="telemetry.read"))]) == {
        "/test.Service/Open": Access("telemetry.read")
    }
