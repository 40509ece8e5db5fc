"""The benchmark's own helpers, such as the echo server: each a process."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from atlas_bench.errors import BenchError

_END_SECONDS_MAX = 10.0


@contextmanager
def echo_server(answers: Mapping[str, bytes]) -> Iterator[str]:
    """Run a bare gRPC server with these answers, by their methods' paths; gives its address."""
    with module_process("atlas_bench.echo") as child:
        encoded = {
            method: base64.b64encode(message).decode() for method, message in answers.items()
        }
        yield ask(child, json.dumps({"answers": encoded})).strip()


@contextmanager
def module_process(module: str, *, niceness: int = 0) -> Iterator["subprocess.Popen[str]"]:
    """Run a module in a process of its own until the block ends; stdin and stdout are pipes."""
    command = [sys.executable, "-m", module]
    with subprocess.Popen(  # noqa: S603 - ourselves.
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        os.setpriority(os.PRIO_PROCESS, child.pid, niceness)
        try:
            yield child
        finally:
            assert child.stdin is not None
            child.stdin.close()
            try:
                child.wait(_END_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                child.kill()


def ask(child: "subprocess.Popen[str]", line: str) -> str:
    """Write a line, wait for the line that answers it. Raises BenchError when the process died."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(line + "\n")
        child.stdin.flush()
    except BrokenPipeError:
        raise BenchError("a process of the benchmark has died; see stderr") from None
    answer = child.stdout.readline()
    if not answer:
        raise BenchError("a process of the benchmark has died; see stderr")
    return answer
