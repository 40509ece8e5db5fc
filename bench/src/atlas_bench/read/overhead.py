"""What the router is asked for, and the process that compares it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from atlas_bench.processes import ask, module_process


@dataclass(frozen=True)
class RouterJob:
    """What to compare. `copy_dsn` is a replica's, or the primary's where there is none."""

    primary_dsn: str
    copy_dsn: str
    tenant_id: int
    entity_ids: tuple[int, ...]
    rounds: int


@contextmanager
def comparing() -> Iterator[Callable[[RouterJob], dict[str, Any]]]:
    """Run a process for it; gives what makes it do a job: overhead and percentiles, in ms."""
    with module_process("atlas_bench.read.router") as child:

        def do(job: RouterJob) -> dict[str, Any]:
            found: dict[str, Any] = json.loads(ask(child, json.dumps(asdict(job))))
            return found

        yield do
