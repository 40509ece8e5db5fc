"""Where backups and archived log are kept: storage that outlives what it was made of."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from atlas_devstack.account import server_account
from atlas_devstack.reach import remove_server_directory, server_directory
from atlas_devstack.servers import ServerOptions

from .site import SCRIPTS


@dataclass(frozen=True)
class Vault:
    """Storage of its own. Its files belong to the account that servers run as."""

    directory: Path

    @property
    def backups(self) -> Path:
        """What base-backup makes."""
        return self.directory / "backups"

    @property
    def archive(self) -> Path:
        """What archive-wal puts away."""
        return self.directory / "wal"

    @property
    def scripts(self) -> Path:
        """Of ops/recovery, where servers can run them."""
        return self.directory / "recovery"

    def segments(self) -> set[str]:
        """The archived files of the log."""
        return {path.name for path in self.archive.iterdir() if len(path.name) == 24}

    def archiving(self, options: ServerOptions, timeout_seconds: int) -> ServerOptions:
        """Servers that archive their log here, what they wrote in so many seconds at the latest."""
        settings = {
            "archive_mode": "on",
            "archive_command": f'{self.scripts}/archive-wal "%p" {self.archive}',
            "archive_timeout": f"{timeout_seconds}s",
        }
        postgres = replace(options.postgres, settings={**options.postgres.settings, **settings})
        return replace(options, postgres=postgres)


@contextmanager
def vault_below(directory: Path) -> Iterator[Vault]:
    """An empty one; it is deleted after the block."""
    directory.mkdir(mode=0o711)
    account = server_account()
    vault = Vault(server_directory(directory, account))
    shutil.copytree(SCRIPTS, vault.scripts)
    vault.backups.mkdir()
    vault.archive.mkdir()
    try:
        if account:
            for path in vault.directory.rglob("*"):
                account.own(path, 0o700)
        yield vault
    finally:
        remove_server_directory(directory)
