"""A database's schema as text; `python -m atlas_devstack.postgres.dump` prints the migrations'."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from atlas_devstack.postgres.binaries import Binaries

_DATED_PARTITION = r"*_[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]*"
_NOISE = re.compile(
    r"^(--.*|\\(un)?restrict .*|SET .*;|SELECT pg_catalog\.set_config.*)?\n", re.MULTILINE
)
# In the order in which the server happens to keep its roles.
_POLICY_ROLES = re.compile(r"^(CREATE POLICY .*? TO )(\w+(?:, \w+)+)", re.MULTILINE)


def schema_of(dsn: str) -> str:
    """The schema without dated partitions, comments, session settings and versions.

    Raises subprocess.CalledProcessError, with pg_dump's words in `stderr`.
    """
    program = Binaries.find(None, None) / "pg_dump"
    command = [str(program), "--schema-only", "--exclude-table", _DATED_PARTITION, "--dbname", dsn]
    dumped = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    text = re.sub(r"\n{2,}", "\n", _NOISE.sub("", dumped.stdout)).replace(";\n", ";\n\n")
    return _POLICY_ROLES.sub(_sorted_roles, text)


def _sorted_roles(found: re.Match[str]) -> str:
    return found[1] + ", ".join(sorted(found[2].split(", ")))


def main() -> None:
    """Print the schema that the migrations make on a new server."""
    from atlas_devstack.servers import ServerOptions  # noqa: PLC0415 - it imports this package.
    from atlas_devstack.stack import Stack, StackOptions  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        stack = Stack.start(
            Path(folder) / "state", StackOptions(services=(), servers=ServerOptions(valkey=False))
        )
        try:
            sys.stdout.write(schema_of(stack.database.admin_dsn))
        finally:
            stack.remove()


if __name__ == "__main__":
    main()
