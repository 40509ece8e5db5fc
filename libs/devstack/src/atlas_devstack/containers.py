"""Postgres and Valkey from a Docker engine, by testcontainers, where there is one.

One primary without replicas, and nothing is kept over a restart. Unlike processes, containers
outlive a supervisor that is killed: the next `up` or `down` on the same state removes them.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from atlas_devstack.credentials import Credentials
from atlas_devstack.dsn import make_dsn, with_database
from atlas_devstack.errors import DevstackError
from atlas_devstack.platform import DATABASE
from atlas_devstack.ports import LOOPBACK
from atlas_devstack.postgres.settings import SUPERUSER
from atlas_devstack.valkey import answers_ping
from atlas_devstack.waiting import Patience, wait_until

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

log = logging.getLogger(__name__)

POSTGRES_IMAGE = "postgres:18-bookworm"
VALKEY_IMAGE = "valkey/valkey:8-bookworm"
_DEFAULT_HOST = "unix:///var/run/docker.sock"
_STATE_LABEL = "atlas-devstack.state"
_RECORD = "containers"
_POSTGRES_SETTINGS = ("wal_level=logical", "max_connections=120", "timezone=UTC", "jit=off")


@dataclass(frozen=True)
class ContainerServers:
    """Where the servers are."""

    pg_dsn: str
    valkey_url: str


def engine_problem() -> str | None:
    """Say why containers cannot be used here; None when they can."""
    try:
        import docker  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional dependency.
        import testcontainers.core.container  # noqa: F401, PLC0415
    except ImportError as error:
        return f"the testcontainers package is not installed ({error})"
    problem = _socket_problem()
    if problem:
        return f"no container engine answers: {problem}"
    try:
        client = docker.from_env(timeout=5)
    except docker.errors.DockerException as error:
        return f"no container engine answers: {error}"
    client.close()
    return None


def _socket_problem() -> str | None:
    """Say why nobody listens on the engine's socket; None when somebody does, or it is elsewhere.

    The docker package asks the same, but does not close a socket that could not be connected: in a
    test run its warning would be an error of whichever test comes next.
    """
    scheme, _, path = os.environ.get("DOCKER_HOST", _DEFAULT_HOST).partition("://")
    if scheme != "unix":
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(path)
        except OSError as error:
            return f"{path}: {error.strerror or error}"
    return None


def missing_images() -> list[str]:
    """Return the images that the engine would have to pull."""
    import docker  # noqa: PLC0415 - optional.

    client = docker.from_env()
    try:
        here = {tag for image in client.images.list() for tag in image.tags}
    finally:
        client.close()
    return [image for image in (POSTGRES_IMAGE, VALKEY_IMAGE) if image not in here]


@contextmanager
def container_servers(
    state: Path, ports: tuple[int, int], credentials: Credentials, patience: Patience
) -> Iterator[ContainerServers]:
    """Run a primary and a Valkey on these ports of loopback; remove them at the end.

    Raises DevstackError where there is no engine, or when a server does not become ready.
    """
    problem = engine_problem()
    if problem:
        raise DevstackError(f"--containers: {problem}")
    from testcontainers.core.config import testcontainers_config  # noqa: PLC0415 - optional.
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - optional.

    testcontainers_config.ryuk_disabled = (
        True  # Its reaper is one more image; we clean up ourselves.
    )
    remove_leftovers(state)
    postgres_port, valkey_port = ports
    postgres = _at(DockerContainer(POSTGRES_IMAGE), state, 5432, postgres_port)
    postgres.with_envs(POSTGRES_PASSWORD=credentials.postgres_superuser)
    postgres.with_command(["postgres", *(f"--{setting}" for setting in _POSTGRES_SETTINGS)])
    valkey = _at(DockerContainer(VALKEY_IMAGE), state, 6379, valkey_port)
    # Not as an argument: the host's users see the arguments of a container's processes.
    valkey.with_copy_into_container(_valkey_configuration(credentials), "/etc/atlas-valkey.conf")
    valkey.with_command(["valkey-server", "/etc/atlas-valkey.conf"])
    servers = ContainerServers(
        pg_dsn=make_dsn(
            user=SUPERUSER,
            password=credentials.postgres_superuser,
            port=postgres_port,
            database=DATABASE,
        ),
        valkey_url=f"redis://:{credentials.valkey}@{LOOPBACK}:{valkey_port}/0",
    )
    (state / _RECORD).touch()
    with ExitStack() as cleanup:
        for container in (postgres, valkey):
            cleanup.callback(container.stop)
            _start(container)
        wait_until(lambda: _postgres_answers(servers), POSTGRES_IMAGE, patience=patience)
        wait_until(lambda: answers_ping(servers.valkey_url), VALKEY_IMAGE, patience=patience)
        yield servers
    (state / _RECORD).unlink(missing_ok=True)


def remove_leftovers(state: Path) -> None:
    """Remove the containers that a killed supervisor of this state left."""
    if not (state / _RECORD).exists():
        return
    problem = engine_problem()
    if problem:
        log.warning("containers of %s may be left: %s", state, problem)
        return
    import docker  # noqa: PLC0415 - optional.

    client = docker.from_env()
    try:
        label = f"{_STATE_LABEL}={state}"
        for container in client.containers.list(all=True, filters={"label": label}):
            container.remove(force=True, v=True)
    finally:
        client.close()
    (state / _RECORD).unlink()


def _at(container: "DockerContainer", state: Path, inside: int, outside: int) -> "DockerContainer":
    # with_bind_ports() would listen on every interface.
    container.ports[f"{inside}/tcp"] = (LOOPBACK, outside)  # type: ignore[assignment]
    return container.with_kwargs(labels={_STATE_LABEL: str(state)})


def _start(container: "DockerContainer") -> None:
    import docker  # noqa: PLC0415 - optional.

    try:
        container.start()
    except docker.errors.DockerException as error:
        raise DevstackError(f"container of {container.image}: {error}") from error


def _valkey_configuration(credentials: Credentials) -> bytes:
    return f'requirepass {credentials.valkey}\nsave ""\nappendonly no\n'.encode()


def _postgres_answers(servers: ContainerServers) -> bool:
    try:
        psycopg.connect(with_database(servers.pg_dsn, "postgres"), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
