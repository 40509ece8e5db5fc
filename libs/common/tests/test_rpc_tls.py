"""Who gets a connection, as whom, and what happens when certificates are renewed."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from atlas.wire.pem import PemFiles
from atlas_common.config import (
    ChannelTlsConfig,
    PeerConfig,
    RpcConfig,
    ServerTlsConfig,
    ServiceConfig,
)
from atlas_common.errors import FatalError
from atlas_common.rpc import (
    Access,
    authenticator,
    call_chain,
    new_server,
    open_channel,
    serve,
)
from atlas_common.rpc.tls import expiries, server_credentials
from atlas_common.tenant import Tenant
from atlas_common.testing import FakeClock, KnownTenants
from atlas_devstack.authority import Authority, CertificateFiles
from atlas_devstack.issuer import AUDIENCE, ISSUER, Issuer
from atlas_devstack.ports import free_port

from .echo_service import ARITIES, NAME, Echo, add, call, failure

ACCESSES = {f"/{NAME}/{arity}": Access("telemetry.read") for arity in ARITIES}
ACME, GLOBEX = (("x-atlas-tenant", "acme"),), (("x-atlas-tenant", "globex"),)
URI = "spiffe://atlas/query"
PEERS = {URI: ["telemetry.read"], "query.atlas": ["telemetry.read"], "ingest.atlas": []}


@dataclass
class Site:
    """A directory with an authority, and a server that trusts it."""

    authority: Authority
    server: CertificateFiles
    issuer: Issuer
    rpc: RpcConfig
    seen: list[str] = field(default_factory=list)
    """The names of those whose calls arrived."""
    target: str = ""

    def peer(
        self,
        client: CertificateFiles | None,
        *,
        target: str | None = None,
        ca_file: Path | None = None,
        **tls: Any,
    ) -> PeerConfig:
        return PeerConfig(
            target=target or self.target,
            tls=ChannelTlsConfig(
                ca_file=str(ca_file or self.authority.ca_file),
                certificate_file=None if client is None else str(client.certificate),
                key_file=None if client is None else str(client.key),
                **tls,
            ),
        )


class Watched(Echo):
    """Notes by whom it is called."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    async def act(self, request: bytes, context: Any) -> bytes:
        names = context.auth_context().get("peer_dns", ())
        self._seen += [name.decode() for name in names]
        return await super().act(request, context)


@asynccontextmanager
async def serving_tls(tmp_path: Path, **ports: int) -> AsyncIterator[Site]:
    authority = Authority(tmp_path / "pki")
    server, issuer = authority.issue("localhost", "127.0.0.1"), Issuer()
    issuer.publish(tmp_path / "jwks.json")
    rpc = RpcConfig.model_validate(
        {
            "tls": {
                "certificate_file": str(server.certificate),
                "key_file": str(server.key),
                "client_ca_file": str(authority.ca_file),
            },
            "port_file": str(tmp_path / "port"),
            "grace_seconds": 0,
            **ports,
        }
    )
    jwt = {"jwks": str(tmp_path / "jwks.json"), "issuer": ISSUER, "audience": AUDIENCE}
    config = ServiceConfig.model_validate(
        {"environment": "prod", "identity": {"jwt": jwt, "peers": PEERS}, "rpc": rpc}
    )
    chain = call_chain(
        rpc,
        authenticator=authenticator(config),
        tenants=KnownTenants(Tenant(1, "acme"), Tenant(2, "globex")),
        accesses=ACCESSES,
    )
    site = Site(authority, server, issuer, rpc)
    grpc_server, stop = new_server(rpc, chain), asyncio.Event()
    add(Watched(site.seen), grpc_server)
    task = asyncio.create_task(serve(grpc_server, rpc, services=[NAME], stop=stop))
    port_file = tmp_path / "port"
    await until(lambda: port_file.exists() or task.done())
    site.target = port_file.read_text().strip()
    try:
        yield site
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - no event tells of it.
            await asyncio.sleep(0.01)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving_tls(tmp_path) as site:
        yield site


async def test_a_known_certificate_names_whom_it_calls_for(site: Site) -> None:
    for client in (site.authority.issue("query.atlas"), site.authority.issue_uri(URI)):
        async with open_channel(site.peer(client)) as channel:
            for arity in ARITIES:
                for tenant, metadata in (("acme", ACME), ("globex", GLOBEX)):
                    answers = await call(channel, arity, b"who", metadata=metadata)
                    assert answers[-1].split()[0] == tenant.encode()
            error, _ = await failure(channel, "UnaryUnary", b"who")
            assert error.reason == "TENANT_MISSING"


async def refused_connection(site: Site, peer: PeerConfig) -> None:
    async with open_channel(peer) as channel:
        error, _ = await failure(channel, "UnaryUnary", b"who", metadata=ACME, timeout=20)
        assert error.code is grpc.StatusCode.UNAVAILABLE
    assert site.seen == []


async def test_no_certificate_no_connection(site: Site) -> None:
    await refused_connection(site, site.peer(None))
    await refused_connection(site, PeerConfig(target=site.target))  # Not even TLS.


async def test_a_certificate_of_another_authority_gets_no_connection(
    site: Site, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "pki", "stranger").issue("query.atlas")
    await refused_connection(site, site.peer(stranger))


async def test_a_certificate_past_its_end_gets_no_connection(site: Site) -> None:
    now = datetime.now(UTC)
    for begins, ends in ((-9, -1), (1, 9)):
        client = site.authority.issue(
            "query.atlas",
            not_before=now + timedelta(days=begins),
            not_after=now + timedelta(days=ends),
        )
        await refused_connection(site, site.peer(client))


async def test_a_server_is_not_believed_either(site: Site, tmp_path: Path) -> None:
    client = site.authority.issue("query.atlas")
    other = Authority(tmp_path / "pki", "other")
    await refused_connection(site, site.peer(client, ca_file=other.ca_file))
    await refused_connection(site, site.peer(client, server_name="another.host"))


async def test_a_certificate_with_a_name_that_is_not_known_may_nothing(site: Site) -> None:
    async with open_channel(site.peer(site.authority.issue("printer.atlas"))) as channel:
        error, _ = await failure(channel, "UnaryUnary", b"who", metadata=ACME)
        assert (error.code.name, error.reason) == ("UNAUTHENTICATED", "CREDENTIALS_INVALID")
    async with open_channel(site.peer(site.authority.issue("ingest.atlas"))) as channel:
        error, _ = await failure(channel, "UnaryUnary", b"who", metadata=ACME)
        assert (error.code.name, error.reason) == ("PERMISSION_DENIED", "SCOPE_MISSING")


async def test_a_token_counts_before_the_certificate_it_comes_with(site: Site) -> None:
    """A gateway lends those whose tokens it hands on no right of its own."""
    async with open_channel(site.peer(site.authority.issue("query.atlas"))) as channel:
        token = site.issuer.token(tenant="acme", scopes=["telemetry.read"])
        metadata = (("authorization", f"Bearer {token}"), *GLOBEX)
        error, _ = await failure(channel, "UnaryUnary", b"who", metadata=metadata)
        assert error.reason == "TENANT_FORBIDDEN"
        bad = (("authorization", "Bearer abc"), *ACME)
        error, _ = await failure(channel, "UnaryUnary", b"who", metadata=bad)
        assert error.reason == "CREDENTIALS_INVALID"


async def test_callers_with_tokens_have_a_port_without_certificates(tmp_path: Path) -> None:
    taken: set[int] = set()
    ports = {"peer_port": free_port(taken)}
    async with serving_tls(tmp_path, **ports) as site:
        token = site.issuer.token(tenant="globex", scopes=["telemetry.read"])
        bearer = (("authorization", f"Bearer {token}"),)
        client = site.authority.issue("query.atlas")
        async with open_channel(site.peer(None)) as channel:
            (answer,) = await call(channel, "UnaryUnary", b"who", metadata=bearer)
            assert answer.startswith(b"globex ")
        async with open_channel(site.peer(client)) as channel:  # Nobody asks to see it.
            error, _ = await failure(channel, "UnaryUnary", b"who", metadata=ACME)
            assert error.reason == "CREDENTIALS_MISSING"
        peers = f"127.0.0.1:{ports['peer_port']}"
        async with open_channel(site.peer(client, target=peers)) as channel:
            (answer,) = await call(channel, "UnaryUnary", b"who", metadata=ACME)
            assert answer.startswith(b"acme ")
        site.seen.clear()
        await refused_connection(site, site.peer(None, target=peers))


async def test_probes_have_a_port_that_answers_nothing_else(tmp_path: Path) -> None:
    port = free_port(set())
    async with (
        serving_tls(tmp_path, health_port=port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service="liveness"), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        error, _ = await failure(channel, "UnaryUnary", b"who", metadata=ACME)
        assert error.code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.timeout(180)
async def test_certificates_are_renewed_while_calls_run(site: Site) -> None:
    """Both sides', several times: no call fails, and new connections are made with the new ones."""
    client = site.authority.issue("query.atlas")
    ended = asyncio.Event()
    done = 0

    async def calling(channel: grpc.aio.Channel) -> None:
        nonlocal done
        while not ended.is_set():
            await call(channel, "UnaryUnary", b"who", metadata=ACME, timeout=30)
            done += 1

    async with open_channel(site.peer(client)) as channel:
        stream = asyncio.create_task(
            call(channel, "UnaryStream", b"wait", metadata=GLOBEX, first=(first := asyncio.Event()))
        )
        await asyncio.wait_for(first.wait(), 30)
        callers = [asyncio.create_task(calling(channel)) for _ in range(3)]
        try:
            for number in range(3):
                name = f"renewed-{number}.atlas"
                fresh = site.authority.issue("localhost", "127.0.0.1")
                site.server.replace_with(fresh)
                client.replace_with(site.authority.issue("query.atlas", name))
                # Wait for both: the certificate the server sees, and the one that it shows. Each
                # side looks at its files once a second, so one may be ahead of the other.
                await until(lambda name=name: name in site.seen)  # type: ignore[misc]
                async with asyncio.timeout(30):
                    while await _serial_shown(site, client) != _serial(fresh.certificate):  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                before = done
                await until(lambda before=before: done > before + 10)  # type: ignore[misc]
        finally:
            ended.set()
            await asyncio.gather(*callers)  # Raises what any call raised.
        assert not stream.done()  # It began three certificates ago, and goes on.
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)


def _serial(certificate: Path) -> int:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number


async def _serial_shown(site: Site, client: CertificateFiles) -> int:
    """Of the certificate that a new connection is shown."""
    return await asyncio.to_thread(_shake_hands, site, client)


def _shake_hands(site: Site, client: CertificateFiles) -> int:
    context = ssl.create_default_context(cafile=site.authority.ca_file)
    context.load_cert_chain(client.certificate, client.key)
    host, _, port = site.target.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def test_files_that_are_half_renewed_are_left_alone(tmp_path: Path) -> None:
    authority, clock = Authority(tmp_path), FakeClock()
    own, other = authority.issue("a.atlas"), authority.issue("b.atlas")
    files = PemFiles(certificate=own.certificate, key=own.key, clock=clock)
    first, new_key = files.current(), other.key.read_bytes()
    own.key.write_bytes(new_key)
    clock.advance(1)
    assert files.current() is first
    assert "the key that belongs to it" in (files.problem or "")
    own.certificate.write_bytes(other.certificate.read_bytes())
    assert files.current() is first  # Not looked at again so soon.
    clock.advance(1)
    assert files.current().certificate == other.certificate.read_bytes()
    assert files.problem is None
    own.certificate.unlink()
    clock.advance(1)
    assert files.current().key == new_key
    assert "No such file" in (files.problem or "")
    assert new_key.decode() not in repr(files.current())


@pytest.mark.parametrize("broken", ["certificate_file", "key_file", "client_ca_file"])
def test_files_that_cannot_be_used_stop_the_service_by_name(tmp_path: Path, broken: str) -> None:
    authority = Authority(tmp_path / "pki")
    own = authority.issue("localhost")
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing\n")
    files = {
        "certificate_file": str(own.certificate),
        "key_file": str(own.key),
        "client_ca_file": str(authority.ca_file),
        broken: str(bad),
    }
    config = RpcConfig.model_validate({"tls": files})
    assert config.tls is not None
    with pytest.raises(FatalError, match=rf"ATLAS_RPC__TLS__\*: .*{bad}"):
        server_credentials(config.tls, asks_for_certificates=True)


def test_when_a_certificate_runs_out_is_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    files = authority.issue("localhost")
    tls = ServerTlsConfig(certificate_file=str(files.certificate), key_file=str(files.key))
    server_credentials(tls, asks_for_certificates=False)
    told = x509.load_pem_x509_certificate(files.certificate.read_bytes()).not_valid_after_utc
    assert expiries()[str(files.certificate)] == told.timestamp()
