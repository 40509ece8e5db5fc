"""The devstack with the platform's services: wiring, healing, reporting."""

from pathlib import Path

import psutil
import psycopg
import pytest

from atlas_devstack.errors import DevstackError
from atlas_devstack.health import is_serving
from atlas_devstack.platform import INDEXER_ROLE, SERVICES
from atlas_devstack.postgres.settings import REPLICATION_USER
from atlas_devstack.pytest_plugin import StartStack
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.status import read_status
from atlas_devstack.tenants import create_tenants
from atlas_devstack.waiting import Patience, wait_until

PATIENCE = Patience(30.0)


def test_everything_is_ready_and_small_when_idle(start_stack: StartStack) -> None:
    status = read_status(start_stack().state.path)
    assert status.ready
    assert set(SERVICES) <= set(status.components)
    # The supervisor of this stack is the test's own process, which has grown with all tests before;
    # the one of `atlas up` takes less than what is left for it here.
    components = sum(each.resident_bytes for each in status.components.values())
    assert components + 150e6 < 1e9


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_killed_service_comes_back_at_its_address(stack: Stack, name: str) -> None:
    service = stack.services[name]
    pid, target = service.pid, service.target
    service.kill()
    wait_until(lambda: service.pid != pid and service.answers(), name, patience=PATIENCE)
    assert service.target == target
    assert is_serving(target)
    wait_until(lambda: read_status(stack.state.path).ready, "the whole stack", patience=PATIENCE)


def test_services_log_in_with_roles_of_their_own(stack: Stack) -> None:
    with psycopg.connect(stack.database.admin_dsn) as connection:
        rows = connection.execute(
            "SELECT DISTINCT usename FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        ).fetchall()
    own = {kind.role for kind in SERVICES.values()}
    # Replicas also log in to copy the state of slots.
    assert {role for (role,) in rows} <= own | {INDEXER_ROLE, REPLICATION_USER}


def test_no_secret_stands_in_arguments(stack: Stack) -> None:
    passwords = stack.database.role_passwords.values()
    for service in stack.services.values():
        arguments = " ".join(psutil.Process(service.pid).cmdline())
        assert not [password for password in passwords if password in arguments]


def test_tenants_are_made_once(stack: Stack) -> None:
    for _ in range(2):
        create_tenants(stack.services["ingest"].target, ["devstack-one", "devstack-two"])
    with psycopg.connect(stack.database.admin_dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM tenants WHERE key LIKE 'devstack-%'"
        ).fetchone()
    assert row == (2,)
    with pytest.raises(DevstackError, match="tenant 'Not A Key!' could not be made"):
        create_tenants(stack.services["ingest"].target, ["Not A Key!"])


def test_a_service_that_refuses_its_configuration_shows_why(tmp_path: Path) -> None:
    options = StackOptions(
        services=("query",),
        servers=ServerOptions(valkey=False),
        environment={"query": {"ATLAS_RPC__GRACE_SECONDS": "soon"}},
    )
    with pytest.raises(
        DevstackError, match=r"(?s)query: exited with status \d+.*RPC__GRACE_SECONDS"
    ):
        Stack.start(tmp_path / "state", options)
