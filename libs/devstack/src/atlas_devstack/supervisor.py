"""The process that holds a stack: in the foreground, or left behind by `atlas up --detach`."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from atlas_devstack.endpoints import Endpoints
from atlas_devstack.errors import DevstackError
from atlas_devstack.postgres import PostgresOptions
from atlas_devstack.request import UpRequest
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions

log = logging.getLogger(__name__)


def supervise(request: UpRequest, announce: Callable[[Stack], None]) -> None:
    """Start a stack, announce it, and hold it until SIGINT, SIGTERM or SIGHUP; then stop it.

    Must be called in the main thread, which alone can receive signals. Raises what Stack.start()
    raises.
    """
    options = _options(request)
    with _stop_signals() as stopping:
        stack = Stack.start(Path(request.state), options, stopping)
        with stack:
            announce(stack)
            stopping.wait()
            log.info("stopping")


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    stopping = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            # Asked twice: end at once. Every child has a death signal, so none stays behind.
            os._exit(128 + number)
        stopping.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_detached(request: UpRequest) -> Endpoints:
    """Leave a supervisor behind in a session of its own; return once its stack is ready.

    Raises DevstackError with its reason when it does not become ready.
    """
    reading, writing = os.pipe()
    command = [sys.executable, "-m", __name__, str(writing)]
    with open(reading) as answers:  # noqa: PTH123 - a descriptor.
        child = subprocess.Popen(  # noqa: S603 - ourselves.
            command,
            stdin=subprocess.PIPE,
            # Not the caller's: whoever reads our output to its end would wait for the supervisor's.
            stdout=subprocess.DEVNULL,
            pass_fds=(writing,),
            start_new_session=True,
            text=True,
        )
        os.close(writing)
        try:
            # By its input: a DSN may hold a password, and arguments are public.
            assert child.stdin is not None
            with child.stdin:
                child.stdin.write(request.to_json())
            answer = json.loads(answers.readline() or "{}")
        except BaseException:
            child.terminate()
            child.wait()
            raise
    if "endpoints" in answer:
        child.returncode = 0  # It is meant to live on: no warning that it does.
        return Endpoints.from_json(json.dumps(answer["endpoints"]))
    child.wait()
    raise DevstackError(answer.get("error", f"the supervisor exited with {child.returncode}"))


def _options(request: UpRequest) -> StackOptions:
    postgres = PostgresOptions(bin_dir=Path(request.pg_bin_dir) if request.pg_bin_dir else None)
    return StackOptions(
        services=request.services,
        servers=ServerOptions(
            postgres=postgres,
            pg_dsn=request.pg_dsn,
            replica_dsns=request.replica_dsns,
            valkey_url=request.valkey_url,
            kafka=request.kafka,
            containers=request.containers,
        ),
        tenants=request.tenants,
        heal_servers=True,
        fresh=request.fresh,
        spans=request.spans,
    )


def _main(descriptor: int) -> None:
    request = UpRequest.from_json(sys.stdin.read())
    with open(descriptor, "w") as answers:

        def announce(stack: Stack) -> None:
            answers.write(json.dumps({"endpoints": json.loads(stack.endpoints.to_json())}) + "\n")
            answers.close()
            _leave_terminal(stack.state.logs / "supervisor.log")

        try:
            supervise(request, announce)
        except DevstackError as error:
            if answers.closed:
                raise
            answers.write(json.dumps({"error": str(error)}) + "\n")
            sys.exit(1)


def _leave_terminal(log_file: Path) -> None:
    """Let go of the caller's terminal; tracebacks go to the log from now on."""
    sys.stdin.close()
    descriptor = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    with suppress(OSError):
        os.chdir("/")  # Do not hold the caller's directory.


if __name__ == "__main__":
    _main(int(sys.argv[1]))
