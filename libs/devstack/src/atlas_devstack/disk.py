"""A small file system of its own, to be filled."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from atlas_devstack.account import Account
from atlas_devstack.errors import DevstackError

_BLOCK = bytes(64 * 1024)


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system. Made by mounted()."""

    path: Path

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def fill(self) -> None:
        """Take all the space that is left."""
        with suppress(OSError), self._ballast.open("ab", buffering=0) as ballast:
            while ballast.write(_BLOCK):
                pass

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)

    @classmethod
    @contextmanager
    def mounted(cls, path: Path, size_mb: int, account: Account | None) -> Iterator["SmallDisk"]:
        """Mount one in memory on a directory, which is made and given to the account.

        Raises DevstackError with the reason where this process may not mount.
        """
        path.mkdir(parents=True, exist_ok=True)
        options = f"size={size_mb}m,mode=0700"
        if account is not None:
            options += f",uid={account.uid},gid={account.gid}"
        _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path))
        try:
            yield cls(path)
        finally:
            # Lazily: whoever still has a file open there must not keep us from going on.
            _run("umount", "--lazy", str(path))


def _run(*command: str) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except FileNotFoundError:
        raise DevstackError(f"there is no {command[0]} program here") from None
    except subprocess.CalledProcessError as error:
        raise DevstackError(f"{command[0]}: {error.stderr.strip()}") from error
