"""Make what docker-compose.yml reads as secrets: `python3 tools/compose_secrets.py [DIRECTORY]`.

What is there already stays: a database that was made with a password keeps it. Of the standard
library alone, since whoever has an engine need not have our environment.
"""

import base64
import json
import secrets
import sys
from pathlib import Path

ROLES = ("ingest", "hotcache", "query", "reconciler", "maintenance", "indexer", "monitor")
"""Login roles without their prefix: each has a file <role>_password."""
OTHERS = ("postgres", "replication", "capture", "valkey", "grafana")


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
    roles = {f"atlas_{role}": (directory / f"{role}_password").read_text() for role in ROLES}
    _write(directory / "role_passwords", json.dumps(roles))
    users = "".join(f'"{role}" "{password}"\n' for role, password in roles.items())
    _write(directory / "pgbouncer_users", users)
    valkey = (directory / "valkey_password").read_text()
    _write(directory / "valkey_conf", f"requirepass {valkey}\n")


def _make_missing(path: Path, content: str) -> None:
    if not path.exists():
        _write(path, content)


def _write(path: Path, content: str) -> None:
    # In its place: the file that a container has mounted is this one, not its successor.
    path.write_text(content, encoding="utf-8")
    path.chmod(0o644)


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else ".compose"))
