"""The devstack itself: what it starts, it stops; what dies, comes back or is reported."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

import atlas_db
from atlas_devstack.account import server_account
from atlas_devstack.component import Component
from atlas_devstack.containers import engine_problem, missing_images
from atlas_devstack.database import Database
from atlas_devstack.errors import AlreadyRunningError, CancelledError, DevstackError
from atlas_devstack.identity import ProcessIdentity
from atlas_devstack.platform import ROLES
from atlas_devstack.postgres import PostgresOptions
from atlas_devstack.process import Launch
from atlas_devstack.pytest_plugin import StartStack
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.supervision import FAST_DEATHS_MAX, Supervision
from atlas_devstack.waiting import Patience, wait_until

PATIENCE = Patience(30.0)

AtlasUp = Callable[..., "subprocess.Popen[str]"]


def atlas(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "atlas_devstack", *arguments]


def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        atlas(*arguments), capture_output=True, text=True, timeout=60, check=False
    )


def processes_of(state: Path) -> list[ProcessIdentity]:
    """The processes recorded in a state directory and all below them, alive now."""
    records = (ProcessIdentity.read(record) for record in (state / "run").glob("*.json"))
    alive = [found for found in records if found and found.is_alive()]
    return [*alive, *(child for found in alive for child in found.descendants())]


def with_settings(**fields: Any) -> StackOptions:
    servers = ServerOptions(postgres=PostgresOptions(**fields), valkey=False)
    return StackOptions(services=(), servers=servers)


def wait_gone(processes: list[ProcessIdentity]) -> None:
    wait_until(
        lambda: not any(process.is_alive() for process in processes), "their end", patience=PATIENCE
    )


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state directory, purged afterwards whatever happened to it."""
    yield tmp_path / "state"
    call("down", "--state", str(tmp_path / "state"), "--purge")


@pytest.fixture
def atlas_up(state: Path) -> Iterator[AtlasUp]:
    """Start `atlas up --json` in the foreground, servers only; wait for its line with endpoints."""
    started: list[subprocess.Popen[str]] = []

    def up(*arguments: str) -> "subprocess.Popen[str]":
        command = atlas("up", "--state", str(state), "--json", "--services", "", *arguments)
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["postgres"]["replicas"]
        return process

    yield up
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_database_is_migrated_and_every_role_can_log_in(database: Database) -> None:
    assert set(ROLES) == set(atlas_db.LOGIN_ROLES)
    for role in ROLES:
        with psycopg.connect(database.dsn(role)) as connection:
            row = connection.execute("SELECT current_user, current_setting('timezone')").fetchone()
        assert row == (role, "UTC")


def test_a_fresh_database_is_apart(fresh_database: Database, database: Database) -> None:
    with psycopg.connect(database.admin_dsn) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS public.canary ()")
    with psycopg.connect(fresh_database.admin_dsn) as connection:
        row = connection.execute("SELECT to_regclass('public.canary')").fetchone()
    assert row == (None,)


def test_replicas_stream_and_a_crashed_primary_keeps_its_data(start_stack: StartStack) -> None:
    stack = start_stack(services=())
    with psycopg.connect(stack.database.admin_dsn) as connection:
        connection.execute("CREATE TABLE public.crash_me AS SELECT 7 AS answer")
    stack.postgres.primary.kill()
    stack.postgres.primary.start()
    stack.postgres.wait_caught_up()
    for database in (stack.database, *stack.replicas.values()):
        with psycopg.connect(database.admin_dsn) as connection:
            assert connection.execute("SELECT answer FROM public.crash_me").fetchone() == (7,)
    with psycopg.connect(stack.database.admin_dsn) as connection:
        names = connection.execute(
            "SELECT application_name, slot_name FROM pg_stat_replication"
            " JOIN pg_replication_slots ON active_pid = pid ORDER BY 1"
        ).fetchall()
    assert names == [("replica-1", "replica_1"), ("replica-2", "replica_2")]


def test_a_promoted_replica_accepts_writes_and_survives_a_restart(start_stack: StartStack) -> None:
    stack = start_stack(services=(), servers=ServerOptions(valkey=False))
    promoted = stack.postgres.replicas[0]
    stack.postgres.primary.kill()
    promoted.promote()
    promoted.restart()
    with psycopg.connect(promoted.superuser_dsn("atlas")) as connection:
        connection.execute("CREATE TABLE public.written_after_failover ()")


def test_a_paused_server_hangs_and_goes_on(start_stack: StartStack) -> None:
    stack = start_stack(services=())
    stack.valkey.pause()
    stack.postgres.replicas[0].pause()
    assert not stack.valkey.answers()
    assert not stack.postgres.replicas[0].answers()
    stack.valkey.resume()
    stack.postgres.replicas[0].resume()
    wait_until(stack.valkey.answers, "valkey", patience=PATIENCE)
    stack.postgres.wait_caught_up()


def test_passwords_are_demanded_private_and_not_in_arguments(start_stack: StartStack) -> None:
    stack = start_stack(services=())
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(
            host="127.0.0.1",
            port=stack.postgres.primary.port,
            user="postgres",
            dbname="atlas",
            passfile="/nonexistent",
        )
    assert stack.state.secrets_file.stat().st_mode & 0o777 == 0o600
    assert stack.state.endpoints_file.stat().st_mode & 0o777 == 0o600
    secrets = json.loads(stack.state.secrets_file.read_text())
    known = [secrets["postgres_superuser"], secrets["postgres_replication"], secrets["valkey"]]
    for process in processes_of(stack.state.path):
        arguments = " ".join(psutil.Process(process.pid).cmdline())
        assert not [secret for secret in known if secret in arguments]


def test_postgres_never_runs_as_root(start_stack: StartStack) -> None:
    stack = start_stack(services=(), servers=ServerOptions(valkey=False))
    for node in stack.postgres.nodes:
        assert psutil.Process(node.pid).uids().real != 0


def test_state_is_kept_from_one_start_to_the_next(tmp_path: Path) -> None:
    options = StackOptions(services=(), servers=ServerOptions(valkey=False))
    first = Stack.start(tmp_path / "state", options)
    with psycopg.connect(first.database.admin_dsn) as connection:
        connection.execute("CREATE TABLE public.kept ()")
    endpoints = first.endpoints
    first.stop()
    second = Stack.start(tmp_path / "state", options)
    try:
        assert second.endpoints == endpoints
        for database in (second.database, *second.replicas.values()):
            with psycopg.connect(database.admin_dsn) as connection:
                assert connection.execute("TABLE public.kept").fetchall() == []
    finally:
        second.remove()
    assert not (tmp_path / "state").exists()


def test_a_second_stack_on_the_same_state_is_refused(start_stack: StartStack) -> None:
    stack = start_stack(services=())
    with pytest.raises(AlreadyRunningError, match=r"already running on .*atlas down --state"):
        Stack.start(stack.state.path, StackOptions(services=()))
    assert stack.valkey.answers()


def test_a_directory_with_something_else_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DevstackError, match="not a devstack's state"):
        Stack.start(tmp_path, StackOptions(services=(), fresh=True))
    assert call("down", "--state", str(tmp_path), "--purge").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_interrupted_start_leaves_nothing(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(CancelledError):
        Stack.start(tmp_path / "state", StackOptions(services=()), cancelled)
    assert processes_of(tmp_path / "state") == []
    Stack.start(tmp_path / "state", StackOptions(services=())).remove()


def test_a_component_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(DevstackError, match="has no postgres, initdb"):
        Stack.start(tmp_path / "state", with_settings(bin_dir=tmp_path))
    with pytest.raises(DevstackError, match="invalid value for parameter"):
        Stack.start(tmp_path / "state", with_settings(settings={"shared_buffers": "lots"}))
    assert processes_of(tmp_path / "state") == []
    call("down", "--state", str(tmp_path / "state"), "--purge")


def test_up_prints_one_object_and_ctrl_c_stops_everything(state: Path, atlas_up: AtlasUp) -> None:
    supervisor = atlas_up()
    running = processes_of(state)
    assert len(running) > 4
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(30) == 0
    assert supervisor.stdout is not None
    assert supervisor.stdout.read() == ""
    wait_gone(running)


def test_ctrl_c_during_the_start_stops_everything(state: Path) -> None:
    command = atlas("up", "--state", str(state), "--services", "")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as supervisor:
        wait_until(lambda: bool(processes_of(state)), "the first process", patience=PATIENCE)
        running = processes_of(state)
        supervisor.send_signal(signal.SIGINT)
        _, errors = supervisor.communicate(timeout=30)
    assert supervisor.returncode in (0, 130), errors
    wait_gone(running)
    assert processes_of(state) == []


def test_no_orphan_survives_a_killed_supervisor_and_the_next_up_works(
    state: Path, atlas_up: AtlasUp
) -> None:
    supervisor = atlas_up()
    running = processes_of(state)
    supervisor.kill()
    supervisor.wait()
    wait_gone(running)
    assert call("status", "--state", str(state)).returncode == 3
    atlas_up().send_signal(signal.SIGTERM)


def test_detached_up_status_down(state: Path) -> None:
    up = call("up", "--state", str(state), "--services", "", "--json", "--detach")
    assert up.returncode == 0, up.stderr
    endpoints = json.loads(up.stdout)
    assert set(endpoints) == {"services", "postgres", "valkey", "kafka", "warehouse", "tenants"}
    found = call("status", "--state", str(state), "--json")
    assert found.returncode == 0, found.stdout
    status = json.loads(found.stdout)
    assert status["endpoints"] == endpoints
    assert status["components"]["postgres-primary"]["ready"]
    again = call("up", "--state", str(state), "--services", "", "--detach")
    assert again.returncode == 1
    assert f"pid {status['supervisor_pid']}" in again.stderr
    running = processes_of(state)
    assert call("down", "--state", str(state)).returncode == 0
    wait_gone(running)
    assert call("down", "--state", str(state), "--purge").stderr == "nothing was running\n"
    assert not state.exists()


def test_a_running_server_can_be_used_instead(database: Database, state: Path) -> None:
    options = ServerOptions(pg_dsn=database.admin_dsn, valkey=False)
    try:
        with Stack.start(state, StackOptions(services=(), servers=options)) as stack:
            assert stack.endpoints.primary == database.admin_dsn
            assert processes_of(state) == []
    finally:
        # A stack gives the service roles, which are of the whole server, passwords of its own.
        atlas_db.set_role_passwords(database.admin_dsn, dict(database.role_passwords))


def test_a_server_that_cannot_be_reached_is_named(state: Path) -> None:
    wrong = "postgresql://nobody:wrong@127.0.0.1:1/atlas"
    refused = call("up", "--state", str(state), "--pg-dsn", wrong, "--services", "", "--detach")
    assert refused.returncode == 1
    assert "database" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a directory from others")
def test_root_in_a_private_directory_needs_no_access_for_others(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    stack = Stack.start(private / "state", StackOptions(services=()))
    data = stack.postgres.primary.data_directory
    account = server_account()
    assert account is not None
    assert data.stat().st_uid == account.uid
    assert not data.is_relative_to(tmp_path)
    stack.remove()
    assert not data.parent.exists()
    assert private.stat().st_mode & 0o777 == 0o700


class Dying(Component):
    """A process that ends at once."""

    def __init__(self, directory: Path) -> None:
        super().__init__("dying", PATIENCE)
        self._directory = directory

    def answers(self) -> bool:
        return self.is_running()

    def _prepare(self) -> Launch:
        with (self._directory / "starts").open("a") as starts:
            starts.write("x")
        return Launch(
            name=self.name,
            command=["/bin/false"],
            environment={},
            directory=self._directory,
            log_path=self._directory / "dying.log",
            record_path=self._directory / "dying.json",
        )


def test_supervision_gives_up_on_what_keeps_dying(tmp_path: Path) -> None:
    dying = Dying(tmp_path)
    supervision = Supervision([dying], tmp_path / "supervision.json", tmp_path)
    dying.launch()
    supervision.start()
    wait_until(lambda: supervision.states()["dying"].gave_up, "giving up", patience=PATIENCE)
    supervision.stop()
    dying.stop()
    assert (tmp_path / "starts").read_text() == "x" * FAST_DEATHS_MAX
    assert json.loads((tmp_path / "supervision.json").read_text())["dying"]["gave_up"]


def test_supervision_starts_a_killed_server_again(state: Path, atlas_up: AtlasUp) -> None:
    atlas_up()
    identity = ProcessIdentity.read(state / "run" / "valkey.json")
    assert identity is not None
    identity.send(signal.SIGKILL)

    def is_healed() -> bool:
        found = json.loads(call("status", "--state", str(state), "--json").stdout)
        return bool(found["ready"] and found["components"]["valkey"]["restarts"] == 1)

    wait_until(is_healed, "valkey again", patience=PATIENCE)


def skip_without_engine() -> None:
    problem = engine_problem()
    if problem:
        pytest.skip(problem)
    missing = missing_images()
    if missing:
        pytest.skip(f"the engine has no image {', '.join(missing)}")


def test_servers_come_from_containers_where_there_is_an_engine(state: Path) -> None:
    skip_without_engine()
    servers = ServerOptions(containers=True)
    with Stack.start(state, StackOptions(services=(), servers=servers)) as stack:
        for role in ROLES:
            with psycopg.connect(stack.database.dsn(role)) as connection:
                assert connection.execute("SHOW wal_level").fetchone() == ("logical",)
        assert stack.endpoints.valkey is not None
        with redis.Redis.from_url(stack.endpoints.valkey) as cache:
            assert cache.ping()
        assert stack.endpoints.replicas == []
        assert processes_of(state) == []
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(stack.database.admin_dsn)


def test_containers_of_a_killed_supervisor_are_removed_by_down(state: Path) -> None:
    skip_without_engine()
    command = atlas("up", "--state", str(state), "--services", "", "--containers", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        primary = json.loads(supervisor.stdout.readline())["postgres"]["primary"]
        supervisor.kill()
    psycopg.connect(primary).close()
    assert call("down", "--state", str(state)).returncode == 0
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(primary)
