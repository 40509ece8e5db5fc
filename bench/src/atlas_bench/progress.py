"""What people see while it runs: lines on stderr, so that stdout stays for the result."""

from rich.console import Console

_console = Console(stderr=True)


def say(text: str) -> None:
    """Show one line."""
    _console.print(text, highlight=False)
