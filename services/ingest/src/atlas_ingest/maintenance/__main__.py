"""`python -m atlas_ingest.maintenance plan|run|verify`: retention as a job of its own.

For sites that do not let the ingest service hold the role atlas_maintenance. Exit codes: 0 all is
done (plan: nothing is due; verify: all archives are whole), 1 something is left, or not whole,
2 the configuration is wrong, 3 the database is away, 4 another process is at it.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

import psycopg

from atlas_common import telemetry
from atlas_common.config import DatabaseConfig, load
from atlas_common.errors import FatalError, ServiceError
from atlas_common.secrets.opened import secrets_opened
from atlas_ingest.config import JobConfig
from atlas_ingest.maintenance.retention import Result, Retention, Step
from atlas_ingest.maintenance.verify import verify_archives

_T = TypeVar("_T")
_EPILOG = """\
environment:
  ATLAS_MAINTENANCE__RETENTION__DSN     the primary itself, as the role atlas_maintenance
  ATLAS_MAINTENANCE__ARCHIVE_DIRECTORY  where Parquet files go; unset: what wants them is kept
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m atlas_ingest.maintenance",
        description="Retire, archive and drop partitions whose time has passed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command",
        choices=list(_COMMANDS),
        help="plan and verify change nothing; verify reads all archives again",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    config = load(JobConfig, [])
    if config.maintenance.retention is None:
        sys.stderr.write("ATLAS_MAINTENANCE__RETENTION__DSN is not set\n")
        return 2
    with telemetry.setup("ingest-maintenance", config.telemetry, instance=config.instance):
        try:
            return _COMMANDS[arguments.command](
                config, config.maintenance.retention, arguments.json
            )
        except (ServiceError, psycopg.Error) as error:
            sys.stderr.write(f"the database cannot be maintained: {error}\n")
            return 3
        except FatalError as error:
            sys.stderr.write(f"{error}\n")
            return 2


async def _done(config: JobConfig, work: Callable[[], Awaitable[_T]]) -> _T:
    async with secrets_opened(config):
        return await work()


def _plan(config: JobConfig, database: DatabaseConfig, as_json: bool) -> int:
    steps = asyncio.run(_done(config, Retention(database, config.maintenance).plan))
    _print({"steps": [_plain(step) for step in steps]}, as_json, [_line(step) for step in steps])
    return 1 if steps else 0


def _run(config: JobConfig, database: DatabaseConfig, as_json: bool) -> int:
    outcomes = asyncio.run(_done(config, Retention(database, config.maintenance).walk))
    if outcomes is None:
        sys.stderr.write("another process is at it\n")
        return 4
    plain = [
        {**_plain(outcome.step), "result": outcome.result.value, "detail": outcome.detail}
        for outcome in outcomes
    ]
    lines = [f"{_line(o.step)}: {o.result.value}: {o.detail}" for o in outcomes]
    _print({"outcomes": plain}, as_json, lines)
    return 0 if all(outcome.result is Result.DONE for outcome in outcomes) else 1


def _verify(config: JobConfig, database: DatabaseConfig, as_json: bool) -> int:
    directory = config.maintenance.archive_directory
    if directory is None:
        raise FatalError("ATLAS_MAINTENANCE__ARCHIVE_DIRECTORY is not set")
    verified = asyncio.run(_done(config, lambda: verify_archives(database, directory)))
    lines = [f"{one.path}: {one.problem or 'whole'}" for one in verified]
    _print({"archives": [asdict(one) for one in verified]}, as_json, lines or ["no archives"])
    return 1 if any(one.problem for one in verified) else 0


_COMMANDS = {"plan": _plan, "run": _run, "verify": _verify}


def _plain(step: Step) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(step).items()
    }


def _line(step: Step) -> str:
    of = f" of class {step.retention_class}" if step.retention_class else ""
    return f"{step.step} {step.partition_name}{of}"


def _print(plain: dict[str, Any], as_json: bool, lines: Sequence[str]) -> None:
    text = json.dumps(plain, indent=2) if as_json else "\n".join(lines or ["nothing is due"])
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
