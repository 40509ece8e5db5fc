"""The reconciler is killed at every step of applying: nothing is lost, nothing is there twice."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas_devstack.database import Database
from tests.integration.letter_rig import insert_poison, letters
from tests.integration.reconciler_rig import ACME, GLOBEX, Rig, make_rig, points

from .dying_reconciler import Step

TENANTS = (ACME, GLOBEX)
ROOT = Path(__file__).parents[2]
DEATH_SECONDS_MAX = 60


@pytest.fixture
def rig(module_database: Database, tmp_path: Path) -> Iterator[Rig]:
    with make_rig(module_database, tmp_path) as rig:
        yield rig


def change(rig: Rig, value: float) -> None:
    """Inserts, a correction, a deletion, a renaming and a point that cannot be applied, of each."""
    with rig.writer() as writer:
        for tenant in TENANTS:
            writer.write(points(tenant.id, 20, value))
    with rig.admin.transaction():
        rig.admin.execute(
            "UPDATE entity_values_ts SET quality = 5 WHERE value_double = %s", [value]
        )
        rig.admin.execute("DELETE FROM entity_values_ts WHERE value_double = %s", [value + 1])
        rig.admin.execute(
            "UPDATE entities SET key = %s WHERE key LIKE 'pump-1%%'", [f"pump-1-{value}"]
        )
        for tenant in TENANTS:
            insert_poison(rig, tenant.id, [value])


async def dies(rig: Rig, step: Step) -> None:
    """Start a reconciler that dies at the step, and wait until it has."""
    arguments = {
        "dsn": rig.server.admin_dsn,
        "passwords": dict(rig.server.role_passwords),
        "path": str(rig.path),
        "slot": rig.slot.name,
        "step": step,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.chaos.dying_reconciler",
        json.dumps(arguments),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEATH_SECONDS_MAX):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == -signal.SIGKILL, errors.decode()[-2000:]


@pytest.mark.timeout(300)  # Each death costs the start of a process.
async def test_at_every_step(rig: Rig) -> None:
    """One after another on the same warehouse, so that what one death leaves meets the next."""
    async with rig.running() as running:
        await running.caught_up()
    poison = 0
    for number, step in enumerate(Step):
        change(rig, 1000.0 * (number + 1))
        poison += len(TENANTS)
        await dies(rig, step)
    async with rig.running() as running:
        await running.caught_up()
        assert len(await letters(running)) == poison
        counts = await running.counts()
        assert counts.dead_lettered == poison
        # In each round: 20 inserts, 1 correction, 1 deletion, per tenant.
        assert counts.applied == 22 * poison
        assert (await running.auditor.audit()).discrepancies == ()
        keys = await running.query("SELECT tenant_id, key FROM entities ORDER BY ALL")
        assert (
            keys
            == rig.admin.execute(
                'SELECT tenant_id, key FROM entities ORDER BY tenant_id, key COLLATE "C"'
            ).fetchall()
        )
        rig.admin.execute("DELETE FROM entity_values_ts WHERE value_decimal = 'NaN'")
        await running.assert_equal(rig)
