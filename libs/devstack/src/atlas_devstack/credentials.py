"""The secrets of one stack: generated once, kept in its state directory, mode 0600."""

import base64
import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from atlas_devstack.account import write_private
from atlas_devstack.errors import DevstackError


def _password() -> str:
    return secrets.token_hex(16)  # Needs no quoting anywhere.


def _token_keys() -> dict[str, str]:
    return {"1": base64.b64encode(secrets.token_bytes(32)).decode()}


@dataclass(frozen=True)
class Credentials:
    """Passwords and keys. They reach processes by environment or file, never as arguments."""

    postgres_superuser: str = field(default_factory=_password)
    postgres_replication: str = field(default_factory=_password)
    valkey: str = field(default_factory=_password)
    roles: dict[str, str] = field(default_factory=dict)
    """Password of each service's database role."""
    token_keys: dict[str, str] = field(default_factory=_token_keys)
    """Key id -> base64 key, of the freshness token."""
    token_active_key: int = 1

    @classmethod
    def load_or_make(cls, path: Path, roles: tuple[str, ...]) -> "Credentials":
        """Read the file, or make it; passwords of roles it does not know yet are added.

        Raises DevstackError when the file is damaged.
        """
        try:
            kept = cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            kept = cls()
        except (ValueError, TypeError) as error:
            raise DevstackError(f"{path} is damaged ({error}); start with --fresh") from error
        missing = {role: _password() for role in roles if role not in kept.roles}
        if missing or not path.exists():
            kept.roles.update(missing)
            write_private(path, json.dumps(asdict(kept), indent=2) + "\n", None)
        return kept
