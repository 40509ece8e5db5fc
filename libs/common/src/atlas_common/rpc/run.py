"""The outermost call of a service's process."""

import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from atlas_common.errors import FatalError

EXIT_FATAL = 1
EXIT_INTERRUPTED = 130


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run main() on uvloop; a FatalError is one line on stderr and exit code 1."""
    try:
        uvloop.run(main())
    except FatalError as error:
        sys.stderr.write(f"fatal: {error}\n")
        raise SystemExit(EXIT_FATAL) from None
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None
