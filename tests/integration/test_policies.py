"""Policies: who runs them, when, what is entered of it; for both tenants or one."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from atlas_client.cli.root import build
from atlas_common.config import DatabaseConfig, PolicyConfig
from atlas_common.db import Database as Pool
from atlas_common.maintenance import Job, JobError, PolicyStore, Runner, RunResult
from atlas_common.tenant import Tenant
from atlas_devstack.database import Database
from atlas_devstack.stack import Stack
from atlas_devstack.waiting import Patience, wait_until

from .conftest import make_two_tenants
from .waiting import eventually

Admin = psycopg.Connection[Any]
CONFIG = PolicyConfig(poll_seconds=0.05, lease_seconds=3.0)


class Work:
    """What a job does: counts, waits, fails."""

    def __init__(self) -> None:
        self.runs: list[list[str]] = []
        self.dry_runs: list[list[str]] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.cancelled = 0
        self.error: Exception | None = None
        self.is_finished = True

    async def run(self, tenants: Sequence[Tenant]) -> RunResult:
        self.runs.append([tenant.key for tenant in tenants])
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return RunResult(f"run {len(self.runs)}", is_finished=self.is_finished)

    async def dry_run(self, tenants: Sequence[Tenant]) -> RunResult:
        self.dry_runs.append([tenant.key for tenant in tenants])
        return RunResult("would work")


def job(work: Work, every: float | None = 3600.0, **fields: Any) -> Job:
    made = {"takes_tenants": True, "starts_at_once": True, **fields}
    return Job("work", work.run, work.dry_run, every, **made)


@pytest.fixture
def admin(fresh_database: Database) -> Iterator[Admin]:
    with psycopg.connect(fresh_database.admin_dsn, autocommit=True) as connection:
        make_two_tenants(connection)
        yield connection


@pytest.fixture
async def store(fresh_database: Database, admin: Admin) -> AsyncIterator[PolicyStore]:
    """As a service whose rights do not go beyond running policies."""
    config = DatabaseConfig(dsn=SecretStr(fresh_database.dsn("atlas_reconciler")))
    async with Pool.open(config, name="test") as primary:
        yield PolicyStore(primary)


def runner(store: PolicyStore, *jobs: Job, name: str = "a") -> Runner:
    return Runner(store, list(jobs), CONFIG, name)


def last(admin: Admin, *, dry_run: bool = False) -> tuple[str, str, int, int]:
    """Status and summary of the last run, how many there were, how many of them failed."""
    row = admin.execute(
        "SELECT status, summary, run_count, failure_count FROM maintenance_runs"
        " WHERE is_dry_run = %s",
        [dry_run],
    ).fetchone()
    assert row is not None
    return row[0], row[1], row[2], row[3]


def due_in(admin: Admin) -> float:
    row = admin.execute(
        "SELECT extract(EPOCH FROM next_start - clock_timestamp()) FROM maintenance_policies"
    ).fetchone()
    assert row is not None
    return float(row[0])


async def test_of_two_processes_one_runs_and_the_next_run_is_after_the_interval(
    store: PolicyStore, admin: Admin
) -> None:
    work, other = Work(), Work()
    work.may_end.clear()
    await store.register(job(work))
    await store.register(job(other))
    first = asyncio.create_task(runner(store).turn(job(work)))
    await eventually(lambda: bool(work.runs))
    assert not await runner(store, name="b").turn(job(other))
    work.may_end.set()
    assert await first
    assert not await runner(store, name="b").turn(job(other))
    assert (work.runs, other.runs) == ([["acme", "globex"]], [])
    assert last(admin) == ("success", "run 1", 1, 0)
    assert 3500 < due_in(admin) <= 3600


async def test_who_died_at_a_run_is_followed_and_it_counts_as_failed(
    store: PolicyStore, admin: Admin
) -> None:
    work = Work()
    await store.register(job(work))
    assert await store.claim(job(work), "died", 3600.0) is not None
    assert not await runner(store).turn(job(work))
    admin.execute("UPDATE maintenance_policies SET leased_until = now() - interval '1 s'")
    assert await runner(store).turn(job(work))
    assert last(admin) == ("success", "run 1", 2, 1)


async def test_who_lost_the_lease_gives_the_run_up_and_enters_nothing(
    store: PolicyStore, admin: Admin
) -> None:
    work = Work()
    work.may_end.clear()
    await store.register(job(work))
    running = asyncio.create_task(runner(store).turn(job(work)))
    await eventually(lambda: bool(work.runs))
    admin.execute("UPDATE maintenance_policies SET runner = 'another'")
    assert await running
    assert work.cancelled == 1
    assert last(admin)[0] == "running", "that of the other"


async def test_who_is_stopped_lets_go_at_once(store: PolicyStore, admin: Admin) -> None:
    work = Work()
    work.may_end.clear()
    await store.register(job(work))
    running = asyncio.create_task(runner(store).turn(job(work)))
    await eventually(lambda: bool(work.runs))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert last(admin)[0] == "interrupted"
    work.may_end.set()
    assert await runner(store, name="b").turn(job(work))
    assert last(admin)[0] == "success"


@pytest.mark.parametrize(
    ("error", "is_finished", "told"),
    [
        (JobError("3 windows differ"), True, ("failed", "3 windows differ", 1, 1)),
        (KeyError("secret"), True, ("failed", "KeyError: see the log of its runner", 1, 1)),
        (None, False, ("unfinished", "run 1", 1, 0)),
    ],
)
async def test_what_failed_is_told_and_repeated_soon(
    store: PolicyStore,
    admin: Admin,
    error: Exception | None,
    is_finished: bool,
    told: tuple[str, str, int, int],
) -> None:
    work = Work()
    work.error, work.is_finished = error, is_finished
    await store.register(job(work))
    assert await runner(store).turn(job(work))
    assert last(admin) == told
    assert 0 < due_in(admin) <= CONFIG.retry_seconds


async def test_settings_make_the_default_and_an_operators_word_counts_more(
    store: PolicyStore, admin: Admin
) -> None:
    work = Work()
    await store.register(job(work, None))
    assert not await runner(store).turn(job(work)), "never by itself"
    assert await store.seconds_until_due(job(work)) is None
    await store.register(job(work, 60.0))
    assert await runner(store).turn(job(work))
    admin.execute("UPDATE maintenance_policies SET schedule_interval = '10 days'")
    await store.register(job(work, 30.0))
    admin.execute("UPDATE maintenance_policies SET next_start = now() - interval '1 s'")
    assert await runner(store).turn(job(work))
    assert due_in(admin) > 9 * 86_400
    admin.execute("UPDATE maintenance_policies SET is_scheduled = false, next_start = now()")
    assert not await runner(store).turn(job(work))


async def test_it_goes_on_through_an_outage(store: PolicyStore, admin: Admin) -> None:
    work = Work()
    running = asyncio.create_task(runner(store).run(job(work, 0.05)))
    try:
        await eventually(lambda: bool(work.runs))
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = 'atlas_reconciler' AND datname = current_database()"
        )
        seen = len(work.runs)
        await eventually(lambda: len(work.runs) > seen + 1)
    finally:
        running.cancel()
        await asyncio.wait({running})


Command = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def atlas(stack: Stack) -> Command:
    """Runs `atlas policy ...`: (exit code, JSON of stdout, stderr)."""
    client = CliRunner()

    def run(*arguments: str) -> tuple[int, Any, str]:
        target = stack.services["ingest"].target
        done = client.invoke(build(), ["policy", *arguments, "--ingest", target, "--json"])
        return done.exit_code, json.loads(done.stdout) if done.stdout else None, done.stderr

    return run


JOBS = {
    "partitions", "retention", "promotion", "projection_verification",
    "reconciliation", "full_reconciliation", "catalog_reconciliation",
}  # fmt: skip


def make_tenants(stack: Stack) -> None:
    arguments = ["tenants", "--ingest", stack.services["ingest"].target, "--create"]
    for key in ("policy-acme", "policy-globex"):
        assert CliRunner().invoke(build(), [*arguments, key]).exit_code == 0


def test_every_service_shows_its_jobs_and_runs_them_when_asked(
    stack: Stack, atlas: Command
) -> None:
    """Real jobs of three processes: what was timers in each of them."""
    make_tenants(stack)
    found: dict[str, Any] = {}

    def shown() -> bool:
        found.update({each["job"]: each for each in atlas("list")[1] if each["default"]})
        return set(found) == JOBS

    wait_until(shown, "every service has told its jobs", patience=Patience(30.0))
    assert found["promotion"]["schedule_interval"] is None, "its mode is off"
    for name in sorted(JOBS):
        policy_id = str(found[name]["policy_id"])
        code, ended, told = atlas("run", policy_id, "--dry-run")
        assert (code, ended["status"]) == (0, "success"), (name, told, ended)
    for name in ("partitions", "retention", "reconciliation"):
        policy_id = str(found[name]["policy_id"])
        code, ended, _ = atlas("run", policy_id)
        assert (code, ended["status"]) == (0, "success"), (name, ended)
        assert ended["runner"]


def test_a_policy_is_for_the_tenants_that_it_names(stack: Stack, atlas: Command) -> None:
    make_tenants(stack)
    added = ("add", "projection_verification", "--every", "7d", "--tenant", "policy-acme")
    code, policy, _ = atlas(*added)
    assert (code, policy["tenants"], policy["schedule_interval"]) == (0, ["policy-acme"], 604_800)
    assert atlas(*added)[1]["policy_id"] == policy["policy_id"], "the same again adds nothing"
    policy_id = str(policy["policy_id"])
    code, told, _ = atlas("run", policy_id, "--dry-run")
    assert (code, told["summary"].endswith("of: policy-acme")) == (0, True)
    code, told, _ = atlas("run", policy_id)
    assert (code, told["summary"]) == (0, "1 tenants verified, nothing differs")
    code, policy, _ = atlas("alter", policy_id, "--off", "--tenant", "policy-globex")
    assert (policy["scheduled"], policy["tenants"]) == (False, ["policy-globex"])
    assert policy["next_start_time"] is None
    assert atlas("remove", policy_id)[0] == 0
    assert policy_id not in [str(each["policy_id"]) for each in atlas("list")[1]]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "partitons", "--every", "1h"), "there is no job 'partitons'"),
        (("add", "partitions", "--every", "1h", "--tenant", "policy-acme"), "name none"),
        (("add", "reconciliation", "--every", "1h", "--tenant", "nobody"), "no tenant 'nobody'"),
        (("add", "reconciliation", "--every", "1ms"), "want a second to 366 days"),
        (("alter", "1"), "update_mask is empty"),
        (("run", "99999"), "there is no policy 99999"),
        (("remove", "1"), "switch it off instead"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    stack: Stack, atlas: Command, arguments: tuple[str, ...], told: str
) -> None:
    make_tenants(stack)
    code, _, problem = atlas(*arguments)
    assert code == 1
    assert told in problem


def test_one_command_shows_the_whole_platform(stack: Stack) -> None:
    """For scripts as JSON, and for people; of both tenants."""
    make_tenants(stack)
    services = stack.endpoints.services
    targets = [
        *("--ingest", services["ingest"], "--query", services["query"]),
        *("--hotcache", services["hotcache"], "--reconciler", services["cdc-reconciler"]),
    ]

    def look() -> Any:
        return json.loads(CliRunner().invoke(build(), ["top", "--json", *targets]).stdout)

    def both_are_known() -> bool:
        known = {one["tenant"] for one in look()["verifications"]["tenants"]}
        return known >= {"policy-acme", "policy-globex"}

    wait_until(both_are_known, "the warehouse knows both tenants", patience=Patience(30.0))
    found = look()
    assert found["problems"] == {}
    assert {each["tier"]["source"] for each in found["tiers"]} == {
        "primary", "replica", "cache", "warehouse",
    }  # fmt: skip
    assert {each["job"] for each in found["policies"]} >= JOBS
    assert found["pipeline"]["phase"] == "streaming"
    shown = CliRunner().invoke(build(), ["top", "--once", *targets]).stdout
    for told in ("replica-1", "policy-acme", "partitions", "streaming"):
        assert told in shown
    # What is away is told, and the rest is shown.
    away = ["top", "--json", *targets[:-1], "127.0.0.1:1", "--timeout", "2"]
    done = CliRunner().invoke(build(), away)
    partly = json.loads(done.stdout.splitlines()[-1])  # Retries are told before, but by `main`.
    assert (done.exit_code, set(partly["problems"])) == (1, {"pipeline", "verification"})
    assert partly["policies"]
