"""`python -m atlas_db`: the migration job. Runs before the services of a release are deployed."""

import argparse
import os
import sys

import psycopg

from atlas_db.transport import refusal
from atlas_db.upgrade import upgrade

EXAMPLES = """\
The DSN is read from ATLAS_ADMIN_DSN, so that no password stands among the process's arguments.
Where ATLAS_ENVIRONMENT is not dev, it needs sslmode=verify-full for a server on another host.

  ATLAS_ADMIN_DSN=postgresql://postgres@db/atlas PGPASSFILE=... python -m atlas_db
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m atlas_db",
        description="Bring the AtlasCo database to the schema of this release.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    dsn = os.environ.get("ATLAS_ADMIN_DSN")
    if not dsn:
        sys.stderr.write(
            "ATLAS_ADMIN_DSN is not set: give the DSN of a role that may create roles\n"
        )
        return 2
    problem = refusal(dsn, os.environ.get("ATLAS_ENVIRONMENT") or "dev")
    if problem is not None:
        sys.stderr.write(f"ATLAS_ADMIN_DSN: {problem}\n")
        return 2
    try:
        upgrade(dsn)
    except psycopg.Error as error:
        sys.stderr.write(f"the database could not be upgraded: {error}\n")
        return 1
    sys.stdout.write("the database is at this release's schema\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
