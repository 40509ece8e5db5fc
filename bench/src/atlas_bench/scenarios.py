"""Which parts of a benchmark are run, by name."""

from collections.abc import Collection

from atlas_bench.errors import BenchError


def names_in(text: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def check_known(names: Collection[str], known: Collection[str]) -> None:
    """Raise BenchError for names that are none."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise BenchError(
            f"no scenario is called {', '.join(unknown)}; there are {', '.join(known)}"
        )
