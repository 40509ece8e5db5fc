"""What people see while it runs: lines on stderr, so that stdout stays for the result."""

import time

from rich.console import Console

_console = Console(stderr=True, soft_wrap=True)
_began = time.monotonic()


def say(text: str) -> None:
    """Show one line, with the seconds since the start."""
    _console.print(f"{time.monotonic() - _began:6.1f} s {text}", highlight=False)
