"""The stack around a run: one that runs already, or one of the demo's own."""

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from atlas_client import AtlasError, Endpoints
from atlas_devstack.demo.run import run_demo
from atlas_devstack.demo.summary import Outcome
from atlas_devstack.endpoints import Endpoints as StackEndpoints
from atlas_devstack.errors import DevstackError
from atlas_devstack.request import UpRequest
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.status import read_status
from atlas_devstack.supervisor import start_detached

_KEPT_STATE = Path(".atlas")


@dataclass(frozen=True)
class Where:
    """The platform that is fed."""

    state: Path | None = None
    """A state directory: what runs there, or is started there; None: a directory of its own."""
    keep: bool = False
    """Whether what is started goes on running."""
    endpoints: Path | None = None
    """A file with the addresses of a platform that runs elsewhere; nothing is started then."""


def run_session(
    where: Where, tenants: tuple[str, ...], seconds: float, *, quiet_stdout: bool
) -> Outcome | None:
    """Run the demo and show its summary. None, with a line on stderr, when it cannot be run.

    `quiet_stdout` keeps everything for people on stderr.
    """
    console = Console(file=sys.stderr if quiet_stdout else sys.stdout, highlight=False)
    try:
        with _platform(where, tenants, console) as endpoints:
            outcome = asyncio.run(run_demo(endpoints, tenants, seconds, console))
            outcome.show(console)
            return outcome
    except DevstackError as error:
        console.print(f"atlas: {error}", markup=False)
    except LookupError as error:
        console.print(f"atlas: the stack lacks a service: {error.args[0]}", markup=False)
    except AtlasError as error:
        console.print(f"atlas: the platform did not answer: {error}", markup=False)
    return None


@contextmanager
def _platform(where: Where, tenants: tuple[str, ...], console: Console) -> Iterator[Endpoints]:
    if where.endpoints is not None:
        console.print(f"using the platform of {where.endpoints}")
        yield _read(where.endpoints)
        return
    with _stack(where.state, tenants, keep=where.keep, console=console) as stack:
        yield Endpoints.from_json(stack.to_json())


def _read(file: Path) -> Endpoints:
    try:
        return Endpoints.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DevstackError(f"{file}: {error}") from error


@contextmanager
def _stack(
    state: Path | None, tenants: tuple[str, ...], *, keep: bool, console: Console
) -> Iterator[StackEndpoints]:
    if state is None and keep:
        state = _KEPT_STATE
    running = read_status(state) if state is not None else None
    if running is not None and running.endpoints is not None:
        console.print(f"using the stack that runs on {state}")
        yield running.endpoints
        return
    if state is not None and keep:
        console.print(f"starting the platform in {state}; it goes on running afterwards")
        yield start_detached(UpRequest(state=str(state.absolute()), tenants=tenants))
        console.print(f"still running: atlas status --state {state}; atlas down --state {state}")
        return
    is_own = state is None
    where = Path(tempfile.mkdtemp(prefix="atlas-demo-")) if state is None else state
    console.print(f"starting the platform in {where}")
    stack = Stack.start(where, StackOptions(tenants=tenants, heal_servers=True))
    try:
        yield stack.endpoints
    finally:
        if is_own:
            stack.remove()
        else:
            stack.stop()
