"""The platform as outside development, with its stores on "another host": by verified TLS alone."""

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from atlas_devstack.authority import Authority, CertificateFiles
from atlas_devstack.collector import collecting
from atlas_devstack.dsn import with_words
from atlas_devstack.platform import DATABASE
from atlas_devstack.platform import SERVICES as KINDS
from atlas_devstack.ports import LOOPBACK
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.tls_front import TlsFront
from atlas_devstack.verified import Verified

from .fortress import Fortress

_NAME = "db.atlas.example"
PRIVATE_FILES = {"secrets.json", "endpoints.json", "valkey.conf", "token_keys.json"}
"""Of the devstack's own: they have passwords in them, and nobody else may read them."""


@dataclass(frozen=True)
class Front:
    """Before one server: what it shows, and whose certificates are believed."""

    tls: TlsFront
    shown: CertificateFiles
    right: Authority
    stranger: Authority

    def show(self, certificate: CertificateFiles) -> None:
        """To all, those that are connected included."""
        self.shown.replace_with(certificate)
        self.tls.renew()
        self.tls.cut()

    def be_false(self) -> None:
        self.show(self.stranger.issue(_NAME, "localhost"))

    def be_true(self) -> None:
        self.show(self.right.issue(_NAME, "localhost"))


@dataclass(frozen=True)
class Sealed:
    held: Fortress
    servers: Stack
    postgres: Front
    valkey: Front

    @property
    def exports(self) -> list[bytes]:
        """What services said to the collector of spans and metrics."""
        return [text.encode() for _, text in self.held.collector.exports]

    @property
    def secrets(self) -> dict[str, list[bytes]]:
        """What nobody may be told, each as it may be written."""
        given = json.loads(self.held.stack.state.secrets_file.read_text())
        cache = json.loads(self.servers.state.secrets_file.read_text())["valkey"]
        key = base64.b64decode(given["token_keys"]["1"])
        keys = {
            name: _pem_lines(files.key) for name, files in self.held.verified.certificates.items()
        }
        return {
            **{f"password of {role}": [text.encode()] for role, text in given["roles"].items()},
            "password of the cache": [cache.encode()],
            "key of tokens": [
                base64.b64encode(key),
                base64.urlsafe_b64encode(key).rstrip(b"="),
                key.hex().encode(),
                key,
            ],
            **{f"TLS key of {name}": lines for name, lines in keys.items()},
        }

    def files(self) -> Iterator[Path]:
        """All that the platform wrote, but for what is the devstack's own or the servers' data."""
        for state in (self.held.stack.state, self.servers.state):
            for file in state.path.rglob("*"):
                if file.is_file() and "postgres" not in file.parts:
                    yield file


def _pem_lines(file: Path) -> list[bytes]:
    lines = file.read_bytes().splitlines()
    return [line for line in lines if line and not line.startswith(b"-----")][:1]


@contextmanager
def _front(pki: Path, target_port: int, *, asks_first: bool) -> Iterator[Front]:
    right = Authority(pki, f"right-{target_port}")
    stranger = Authority(pki, f"stranger-{target_port}")
    shown = right.issue(_NAME, "localhost")
    with TlsFront.listen(target_port, shown, asks_first=asks_first) as tls:
        yield Front(tls, shown, right, stranger)


@contextmanager
def sealed(directory: Path, server_options: ServerOptions) -> Iterator[Sealed]:
    """Start it: the servers, what ends TLS before them, and the services, which know that alone."""
    postgres_options = replace(server_options.postgres, replicas=0)
    with ExitStack() as undo:
        servers = Stack.start(
            directory / "servers",
            StackOptions(services=(), servers=ServerOptions(postgres=postgres_options)),
        )
        undo.callback(servers.remove)
        pki = directory / "stores"
        node = servers.postgres.primary
        postgres = undo.enter_context(_front(pki, node.port, asks_first=True))
        valkey = undo.enter_context(_front(pki, servers.valkey.port, asks_first=False))
        dsn = with_words(
            node.superuser_dsn(DATABASE),
            {
                "host": _NAME,  # Not this host's: so that it has to be verified.
                "hostaddr": LOOPBACK,
                "port": str(postgres.tls.port),
                "sslmode": "verify-full",
                "sslrootcert": str(postgres.right.ca_file),
            },
        )
        url = servers.valkey.url.replace("redis://", "rediss://").replace(
            f"{LOOPBACK}:{servers.valkey.port}", f"localhost:{valkey.tls.port}"
        )
        verified = Verified.made(directory, tuple(KINDS))
        collector = undo.enter_context(collecting())
        told = {
            "ATLAS_TELEMETRY__OTLP_ENDPOINT": collector.endpoint,
            "ATLAS_TELEMETRY__METRICS_INTERVAL_SECONDS": "1",
        }
        stack = Stack.start(
            directory / "state",
            StackOptions(
                servers=ServerOptions(
                    pg_dsn=dsn, valkey_url=f"{url}?ssl_ca_certs={valkey.right.ca_file}"
                ),
                environment={
                    name: {**given, **told} for name, given in verified.environment.items()
                },
                ready_seconds_max=180,
                spans=True,
            ),
        )
        undo.callback(stack.remove)
        yield Sealed(Fortress(stack, verified, collector), servers, postgres, valkey)
