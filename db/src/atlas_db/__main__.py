"""`python -m atlas_db`: the migration job. Runs before the services of a release are deployed."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from atlas_db.transport import refusal
from atlas_db.upgrade import LOGIN_ROLES, set_role_passwords, upgrade

DSN = "ATLAS_ADMIN_DSN"
PASSWORD_FILE = "ATLAS_ADMIN_PASSWORD_FILE"  # noqa: S105 - a variable's name.
ROLE_PASSWORDS_FILE = "ATLAS_ROLE_PASSWORDS_FILE"
EXAMPLES = f"""\
environment variables, so that no password stands among the process's arguments:
  {DSN}
      Of a role that may create roles, on the server itself, never a pooler. Required.
      With sslmode=verify-full for a server on another host, where ATLAS_ENVIRONMENT is not dev.
  {PASSWORD_FILE}
      File with its password, in place of the DSN's. Default: none.
  {ROLE_PASSWORDS_FILE}
      JSON file: the passwords that login roles get, as {{"atlas_query": "..."}}. Default: none,
      roles keep what they have.

  {DSN}=postgresql://postgres@db/atlas PGPASSFILE=... python -m atlas_db
"""


class SettingsError(Exception):
    """A variable, or the file that it names, cannot be used; the message says which and why."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m atlas_db",
        description="Bring the AtlasCo database to the schema of this release.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    try:
        dsn = _admin_dsn(os.environ)
        passwords = _role_passwords(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    problem = refusal(dsn, os.environ.get("ATLAS_ENVIRONMENT") or "dev")
    if problem is not None:
        sys.stderr.write(f"ATLAS_ADMIN_DSN: {problem}\n")
        return 2
    try:
        upgrade(dsn)
        set_role_passwords(dsn, passwords)
    except psycopg.Error as error:
        sys.stderr.write(f"the database could not be upgraded: {error}\n")
        return 1
    sys.stdout.write("the database is at this release's schema\n")
    return 0


def _admin_dsn(environment: Mapping[str, str]) -> str:
    dsn = environment.get(DSN)
    if not dsn:
        raise SettingsError(f"{DSN} is not set: give the DSN of a role that may create roles")
    password_file = environment.get(PASSWORD_FILE)
    if not password_file:
        return dsn
    try:
        return make_conninfo(dsn, password=_content(PASSWORD_FILE, password_file).strip())
    except psycopg.ProgrammingError:
        raise SettingsError(f"{DSN} is no DSN: as postgresql://postgres@db/atlas") from None


def _role_passwords(environment: Mapping[str, str]) -> dict[str, str]:
    named = environment.get(ROLE_PASSWORDS_FILE)
    if not named:
        return {}
    try:
        read = json.loads(_content(ROLE_PASSWORDS_FILE, named))
        passwords = {str(role): password for role, password in read.items()}
    except (ValueError, AttributeError):
        passwords = {"": None}  # Its error would quote what is secret.
    if not all(isinstance(each, str) and each for each in passwords.values()):
        raise SettingsError(f'{ROLE_PASSWORDS_FILE}: {named} is not as {{"atlas_query": "..."}}')
    unknown = sorted(set(passwords) - set(LOGIN_ROLES))
    if unknown:
        known = ", ".join(LOGIN_ROLES)
        raise SettingsError(
            f"{ROLE_PASSWORDS_FILE}: {named}: no role is called {', '.join(unknown)};"
            f" there are {known}"
        )
    return passwords


def _content(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8"
        raise SettingsError(f"{variable}: {path}: {reason}") from None


if __name__ == "__main__":
    sys.exit(main())
