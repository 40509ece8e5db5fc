"""TLS and tokens of a client: from where they come, and where they are not sent."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from typer.testing import CliRunner

from atlas.query.v1 import query_service_pb2, query_service_pb2_grpc
from atlas_client import AtlasClient, AtlasError, Endpoints, Security, TokenFile
from atlas_client.cli.root import build
from atlas_devstack.authority import Authority


class Listener(query_service_pb2_grpc.QueryServiceServicer):
    """Keeps the metadata of calls."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    async def ListTiers(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.heard.append(dict(context.invocation_metadata()))
        return query_service_pb2.ListTiersResponse()

    async def _unserved(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    GetEntities = FindEntities = WaitFor = ExplainRoute = _unserved
    GetHistory: Any = _unserved
    Aggregate: Any = _unserved
    WatchEntities: Any = _unserved


class Server:
    """A server that asks for certificates of its authority."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.listener = Listener()
        self.target = ""

    async def start(self) -> grpc.aio.Server:
        own = self.authority.issue("query.atlas")
        credentials = grpc.ssl_server_credentials(
            [(own.key.read_bytes(), own.certificate.read_bytes())],
            self.authority.ca_file.read_bytes(),
            require_client_auth=True,
        )
        server = grpc.aio.server()
        query_service_pb2_grpc.add_QueryServiceServicer_to_server(self.listener, server)
        self.target = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
        await server.start()
        return server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path / "pki")
    running = await server.start()
    yield server
    await running.stop(0)


def security(server: Server, **changed: Any) -> Security:
    own = server.authority.issue("client.atlas")
    return Security(
        **{
            "ca_file": server.authority.ca_file,
            "certificate_file": own.certificate,
            "key_file": own.key,
            "server_name": "query.atlas",
            **changed,
        }
    )


async def test_certificate_and_token_go_with_every_call(server: Server) -> None:
    tokens = iter(["first", "second"])
    given = security(server, token=lambda: next(tokens))
    endpoints = Endpoints(query=server.target, security=given)
    async with AtlasClient.connect(endpoints, tenant="acme") as client:
        await client.list_tiers()
        await client.for_tenant("globex").list_tiers()
    assert [(call["authorization"], call["x-atlas-tenant"]) for call in server.listener.heard] == [
        ("Bearer first", "acme"),
        ("Bearer second", "globex"),
    ]
    assert "first" not in repr(given)


@pytest.mark.parametrize("without", ["certificate_file", "server_name", "ca_file"])
async def test_both_sides_have_to_be_believed(server: Server, without: str) -> None:
    changed: dict[str, Any] = {without: None}
    if without == "certificate_file":
        changed["key_file"] = None
    endpoints = Endpoints(query=server.target, security=security(server, **changed))
    async with AtlasClient.connect(endpoints) as client:
        with pytest.raises(AtlasError) as caught:
            await client.list_tiers(timeout=2)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert server.listener.heard == []


async def test_a_token_does_not_cross_a_network_in_the_clear() -> None:
    given = Security(token="secret")
    for target in ("10.0.0.7:7000", "query.atlas:7000", "localhost.evil.test:7000"):
        with pytest.raises(ValueError, match=f"a token is not sent to {target} in the clear"):
            async with AtlasClient.connect(Endpoints(query=target), security=given):
                pass
    for target in ("127.0.0.1:7000", "[::1]:7000", "localhost:7000"):
        async with AtlasClient.connect(Endpoints(query=target), security=given):
            pass


def test_a_token_file_is_read_again_and_never_half(tmp_path: Path) -> None:
    now = 0.0
    path = tmp_path / "token"
    for content in ("", " \n", "two\nlines", "naïve"):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"{path}: no token"):
            TokenFile(path)
    path.write_text("first\n")
    token = TokenFile(path, lambda: now)
    path.write_text("second-one\n")
    assert token() == "first"  # Looked at a moment ago.
    now = 1.0
    assert token() == "second-one"
    for ruin in (lambda: path.write_text(""), path.unlink):
        ruin()
        now += 1
        assert token() == "second-one"
    path.write_text("third\n")
    now += 1
    assert token() == "third"


def test_an_endpoints_file_names_them(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    entry = {"ca_file": "/pki/ca.pem", "token_file": str(tmp_path / "token")}
    text = json.dumps({"services": {"query": "h:1"}, "security": entry})
    found = Endpoints.from_json(text).security
    assert found is not None
    assert found.ca_file == Path("/pki/ca.pem")
    assert callable(found.token)
    assert found.token() == "abc"
    with pytest.raises(ValueError, match="security: ca: there is no such setting"):
        Endpoints.from_json(json.dumps({"services": {}, "security": {"ca": "x"}}))


def test_the_command_line_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    command = ["tiers", "--query"]
    for arguments, environment, problem in (
        (["10.0.0.7:1"], {"ATLAS_BEARER_TOKEN": "secret"}, "in the clear"),
        (["127.0.0.1:1", "--ca-file", "/no/such.pem"], {}, "/no/such.pem: No such file"),
        (["127.0.0.1:1", "--token-file", "/no/token"], {}, "/no/token: No such file"),
        (["127.0.0.1:1", "--key-file", "/no/key"], {}, "a certificate needs its key"),
    ):
        told = CliRunner().invoke(build(), [*command, *arguments], env=environment)
        assert told.exit_code == 2, told.output
        assert problem in told.output
        assert "secret" not in told.output


async def test_the_command_line_takes_all_from_its_environment(server: Server) -> None:
    given = security(server)
    environment = {
        "ATLAS_TLS_CA_FILE": str(given.ca_file),
        "ATLAS_TLS_CERTIFICATE_FILE": str(given.certificate_file),
        "ATLAS_TLS_KEY_FILE": str(given.key_file),
        "ATLAS_TLS_SERVER_NAME": "query.atlas",
        "ATLAS_BEARER_TOKEN": "abc",
    }
    command = ["tiers", "--query", server.target, "--json"]
    told = await asyncio.to_thread(CliRunner().invoke, build(), command, env=environment)
    assert told.exit_code == 0, told.output
    assert server.listener.heard[0]["authorization"] == "Bearer abc"
