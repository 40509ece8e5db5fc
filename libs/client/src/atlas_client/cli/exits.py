"""Exit codes, the same for every command, and errors as one line on stderr."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import typer

from atlas_client.errors import AtlasError

OK = 0
REFUSED = 1
"""The platform refused, or part of the work: rejected rows, a mismatch."""
USAGE = 2
"""The command line, or a file it names."""
UNAVAILABLE = 3
"""The platform is not there, or did not answer in time."""
INTERRUPTED = 130

EPILOG = (
    "Exit codes: 0 done; 1 refused, or only partly done; 2 wrong usage or an unreadable file;"
    " 3 the platform is unavailable."
)

_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


def fail(message: str, code: int) -> typer.Exit:
    """Tell what is wrong on stderr; raise what this returns."""
    typer.echo(f"atlas: {message}", err=True)
    return typer.Exit(code)


@contextmanager
def told() -> Iterator[None]:
    """Turn errors of the client into a line and an exit code."""
    try:
        yield
    except AtlasError as error:
        raise fail(str(error), UNAVAILABLE if error.code in _AWAY else REFUSED) from error
    except LookupError as error:
        raise fail(
            f"{error.args[0]} (see --state, --ingest, --query, --hotcache)", USAGE
        ) from error
    except KeyboardInterrupt:
        raise fail("interrupted", INTERRUPTED) from None
    except BrokenPipeError:
        # The reader (`head`, for example) has enough. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(OK) from None
