"""The operating-system account that Postgres runs as.

Postgres refuses to run as root. An ordinary user runs it as themself; for root it is started as
an unprivileged account, which must be able to reach the binaries and the data directory.
"""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from atlas_devstack.errors import DevstackError

_CANDIDATES = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """An unprivileged user and its primary group."""

    name: str
    uid: int
    gid: int

    def own(self, path: Path, mode: int) -> None:
        """Give the path to this account."""
        path.chmod(mode)
        os.chown(path, self.uid, self.gid, follow_symlinks=False)


def server_account() -> Account | None:
    """Return the account to switch to, or None where the current one will do."""
    if os.geteuid() != 0:
        return None
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise DevstackError(
        f"running as root, and none of the users {', '.join(_CANDIDATES)} exists to run Postgres as"
    )


def can_reach(path: Path, account: Account) -> bool:
    """Say whether the account may read and enter this path and enter every directory above it."""
    path = path.resolve()
    above = all(_may(parent, account, stat.S_IXOTH) for parent in path.parents)
    return above and _may(path, account, stat.S_IROTH | stat.S_IXOTH)


def can_pass(path: Path, account: Account) -> bool:
    """Say whether the account may enter this directory and every one above it."""
    path = path.resolve()
    return all(_may(directory, account, stat.S_IXOTH) for directory in (path, *path.parents))


def _may(path: Path, account: Account, bits_for_others: int) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        wanted = bits_for_others << 6
    elif status.st_gid == account.gid:
        wanted = bits_for_others << 3
    else:
        wanted = bits_for_others
    return status.st_mode & wanted == wanted


def write_private(path: Path, text: str, account: Account | None) -> None:
    """Replace a file by one that only the account (None: we) can read.

    Made anew, never opened: in a directory of the account it could put a link where root writes.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        if account:
            os.fchown(descriptor, account.uid, account.gid)
        file.write(text)
