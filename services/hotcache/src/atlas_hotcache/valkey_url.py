"""What a Valkey URL says: which kind of deployment, where, and as whom. Pure.

    redis://[user][:password]@host[:port][/database]
    redis+sentinel://[user][:password]@host[:port],host[:port]/service[/database]
    redis+cluster://[user][:password]@host[:port],host[:port]

`valkey` does for `redis`, `rediss` and `valkeys` ask for TLS. User and password are Valkey's; those
of sentinels, which may have others or none, are parameters: `?sentinel_password=...`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qsl, unquote, urlsplit

FORMS = (
    "redis://:password@host:port/0, redis+sentinel://:password@host:port,host:port/service/0"
    " or redis+cluster://:password@host:port,host:port; rediss for TLS"
)
_SCHEMES = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
_TLS_FILES = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_SENTINEL_LOGIN = frozenset({"sentinel_username", "sentinel_password"})
_PORT, _SENTINEL_PORT = 6379, 26379
_NODES_MAX = 64
_DATABASES = 16_384


class Deployment(StrEnum):
    """How the servers work together."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class ValkeyUrlError(ValueError):
    """Not the URL of a Valkey. The message says why, and repeats no part that may be secret."""


@dataclass(frozen=True, slots=True)
class Login:
    """As whom. Empty: nobody in particular."""

    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ValkeyUrl:
    """A parsed URL. `nodes`: host and port of the server, of sentinels, or of cluster nodes."""

    deployment: Deployment
    nodes: tuple[tuple[str, int], ...]
    login: Login
    is_tls: bool = False
    tls_files: tuple[tuple[str, str], ...] = ()
    """Option of redis-py and path, for TLS with other certificates than the system's."""
    database: int = 0
    service: str = ""
    """The name under which sentinels know the master."""
    sentinel_login: Login = Login()

    @classmethod
    def parse(cls, text: str) -> "ValkeyUrl":
        """Raises ValkeyUrlError."""
        try:
            parts = urlsplit(text)
            parameters = dict(parse_qsl(parts.query, strict_parsing=True, keep_blank_values=True))
        except ValueError:  # Its own message would show what it read.
            if "?" in text and not text.endswith("?"):
                raise ValkeyUrlError("its parameters are not name=value pairs") from None
            raise ValkeyUrlError(f"it is no URL; want {FORMS}") from None
        if parts.fragment:
            raise ValkeyUrlError("it has a part after #; does the password need quoting (%23)?")
        deployment, is_tls = _scheme(parts.scheme)
        login, nodes = _authority(parts.netloc, deployment)
        database, service = _path(parts.path, deployment)
        _check_parameters(parameters, deployment, is_tls=is_tls)
        return cls(
            deployment,
            nodes,
            login,
            is_tls,
            tuple((name, value) for name, value in parameters.items() if name in _TLS_FILES),
            database,
            service,
            Login(parameters.get("sentinel_username", ""), parameters.get("sentinel_password", "")),
        )


def _scheme(scheme: str) -> tuple[Deployment, bool]:
    name, _, kind = scheme.partition("+")
    if name not in _SCHEMES or kind not in {"", Deployment.SENTINEL, Deployment.CLUSTER}:
        raise ValkeyUrlError(f"its scheme is not known; want {FORMS}")
    return Deployment(kind or Deployment.STANDALONE), _SCHEMES[name]


def _authority(netloc: str, deployment: Deployment) -> tuple[Login, tuple[tuple[str, int], ...]]:
    login, at, hosts = netloc.rpartition("@")
    username, _, password = login.partition(":") if at else ("", "", "")
    port = _SENTINEL_PORT if deployment is Deployment.SENTINEL else _PORT
    nodes = tuple(_node(host, port) for host in hosts.split(","))
    if len(nodes) > _NODES_MAX:
        raise ValkeyUrlError(f"it names more than {_NODES_MAX} hosts")
    if deployment is Deployment.STANDALONE and len(nodes) > 1:
        raise ValkeyUrlError("it names several hosts; that is for +sentinel and +cluster")
    return Login(unquote(username), unquote(password)), nodes


def _node(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):  # No port, perhaps after an IPv6 address.
        host, port = text, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise ValkeyUrlError("a host is missing")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValkeyUrlError("a port is not in 1..65535; does the password need quoting (%40)?")
    return host, int(port)


def _path(path: str, deployment: Deployment) -> tuple[int, str]:
    parts = [unquote(part) for part in path.strip("/").split("/") if part]
    service = ""
    if deployment is Deployment.SENTINEL:
        if not parts:
            raise ValkeyUrlError("the service that the sentinels watch is missing: /service")
        service = parts.pop(0)
    number = parts.pop(0) if parts else "0"
    if parts or not (number.isascii() and number.isdigit() and int(number) < _DATABASES):
        raise ValkeyUrlError("its path is no database number")
    if deployment is Deployment.CLUSTER and int(number):
        raise ValkeyUrlError("a cluster has database 0 only")
    return int(number), service


def _check_parameters(parameters: dict[str, str], deployment: Deployment, *, is_tls: bool) -> None:
    known: frozenset[str] = frozenset()
    if is_tls:
        known |= _TLS_FILES
    if deployment is Deployment.SENTINEL:
        known |= _SENTINEL_LOGIN
    if parameters.keys() - known:
        allowed = ", ".join(sorted(known)) or "none"
        raise ValkeyUrlError(f"it has a parameter that is not known here; known: {allowed}")
