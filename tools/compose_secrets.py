"""Make what docker-compose.yml reads as secrets, or change one while the platform runs.

    python3 tools/compose_secrets.py [DIRECTORY]
    python3 tools/compose_secrets.py --change ingest [DIRECTORY]

Made: what is there already stays, since a database that was made with a password keeps it.
Changed: by the running containers first, then in the files; what is connected stays connected.
Of the standard library alone, since whoever has an engine need not have our environment.
"""

import argparse
import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROLES = ("ingest", "hotcache", "query", "reconciler", "maintenance", "indexer", "monitor")
"""Login roles without their prefix: each has a file <role>_password."""
OTHERS = ("postgres", "replication", "capture", "valkey", "grafana")
_COMMAND_SECONDS_MAX = 120
Compose = Callable[..., None]
"""Runs docker compose; `told` is what it reads. Raises CalledProcessError."""


def make(directory: Path) -> None:
    """Write a file for each secret that has none yet, and those that repeat others anew."""
    # Containers run as their own users and read the files; on this machine the directory keeps
    # everybody else out.
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    for name in (*ROLES, *OTHERS):
        _make_missing(directory / f"{name}_password", secrets.token_hex(16))
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    _make_missing(directory / "token_keys", json.dumps({"1": key}))
    roles = _passwords(directory)
    _write_roles(directory, roles)
    users = "".join(f'"{role}" "{password}"\n' for role, password in roles.items())
    _write(directory / "pgbouncer_users", users)
    valkey = (directory / "valkey_password").read_text()
    _write(directory / "valkey_conf", f"requirepass {valkey}\n")


def change(name: str, directory: Path, compose: Compose) -> None:
    """Give a login role, or the cache, another password. Raises CalledProcessError: as it was."""
    file, password = directory / f"{name}_password", secrets.token_hex(16)
    if name == "valkey":
        former = file.read_text()
        # It takes both until services have read the file: nobody is refused in between.
        _acl(compose, f">{password}")
        _write(file, password)
        make(directory)
        _acl(compose, f"<{former}")
        return
    _write_roles(directory, _passwords(directory) | {f"atlas_{name}": password})
    try:
        compose("run", "--rm", "--no-deps", "-T", "migrations")
    except BaseException:
        make(directory)
        raise
    # From here to the pooler's look at its file, new logins fail and are tried again.
    _write(file, password)
    make(directory)
    # Not `kill`: an engine takes what it signals for stopped, and would not start it again.
    compose("exec", "-T", "pgbouncer", "bash", "-c", "kill -HUP 1")


def _acl(compose: Compose, rule: str) -> None:
    """Change the cache's only user; by what it reads, since arguments are public."""
    ask = 'REDISCLI_AUTH="$(cat /run/secrets/valkey_password)" valkey-cli -e'
    compose("exec", "-T", "valkey", "sh", "-c", ask, told=f"ACL SETUSER default {rule}\n")


def _passwords(directory: Path) -> dict[str, str]:
    return {f"atlas_{role}": (directory / f"{role}_password").read_text() for role in ROLES}


def _write_roles(directory: Path, roles: dict[str, str]) -> None:
    _write(directory / "role_passwords", json.dumps(roles))


def _make_missing(path: Path, content: str) -> None:
    if not path.exists():
        _write(path, content)


def _write(path: Path, content: str) -> None:
    # In its place: the file that a container has mounted is this one, not its successor.
    path.write_text(content, encoding="utf-8")
    path.chmod(0o644)


def _compose(directory: Path) -> Compose:
    environment = {"COMPOSE_PROFILES": "core", **os.environ}
    environment["ATLAS_COMPOSE_SECRETS"] = str(directory.absolute())

    def run(*arguments: str, told: str = "") -> None:
        subprocess.run(  # noqa: S603 - what is above, and no shell.
            ["docker", "compose", *arguments],  # noqa: S607 - the PATH's: as whoever starts us would.
            env=environment,
            input=told,
            stdout=sys.stderr,
            text=True,
            check=True,
            timeout=_COMMAND_SECONDS_MAX,
        )

    return run


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--change", choices=(*ROLES, "valkey"), help="whose password")
    parser.add_argument("directory", nargs="?", type=Path, default=Path(".compose"))
    arguments = parser.parse_args()
    if arguments.change is None:
        make(arguments.directory)
        return
    if not arguments.directory.is_dir():
        parser.error(f"{arguments.directory}: there is no such directory; make it without --change")
    try:
        change(arguments.change, arguments.directory, _compose(arguments.directory))
    except (OSError, subprocess.SubprocessError) as error:
        way_out = "`make secrets`, then `docker compose run --rm --no-deps migrations`"
        sys.exit(f"{arguments.change}: not changed, or not wholly: {error}. Back: {way_out}")


if __name__ == "__main__":
    main()
