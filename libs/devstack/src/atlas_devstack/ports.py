"""Free TCP ports on loopback that stay free while nothing listens on them."""

import contextlib
import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST_PORT = 15_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ATTEMPTS_MAX = 1_000


def is_free(port: int) -> bool:
    """Say whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT is not taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(taken: set[int]) -> int:
    """Pick a port nobody listens on, and add it to `taken`.

    Ports below the kernel's ephemeral range, not `bind(0)`: the kernel gives an ephemeral port to
    any outgoing connection while a server restarts, and the server could never get it back.
    Picked at random, so that stacks started at the same time rarely want the same one.
    """
    for _ in range(_ATTEMPTS_MAX):
        port = random.randrange(LOWEST_PORT, _ephemeral_start())  # noqa: S311 - no secret.
        if port not in taken and is_free(port):
            taken.add(port)
            return port
    raise OSError(f"no free port on {LOOPBACK} in {_ATTEMPTS_MAX} attempts")


def _ephemeral_start() -> int:
    with contextlib.suppress(OSError, ValueError):
        return max(int(_EPHEMERAL_RANGE.read_text().split()[0]), LOWEST_PORT + 1_000)
    return 32_768
