"""All secrets that settings name, read and kept new while a service runs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from atlas_common.background import Supervisor
from atlas_common.bounded_http import is_private
from atlas_common.config import SecretsConfig, ServiceConfig, sections, variable_name
from atlas_common.errors import FatalError
from atlas_common.key_ring import KeyRing
from atlas_common.secrets import sources
from atlas_common.secrets.file import read_text
from atlas_common.secrets.login import parse_login
from atlas_common.secrets.name import Kind, SourceName
from atlas_common.secrets.refreshed import Refreshed
from atlas_common.secrets.store import Secret, Store
from atlas_common.secrets.vault import Vault

_FILE_SECONDS = 1.0
# By the name of the setting that names the source.
_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "password_source": parse_login,
    "keys_source": KeyRing.parse,
}


@asynccontextmanager
async def secrets_opened(config: ServiceConfig) -> AsyncIterator[None]:
    """Read what the settings name, and go on reading it until the block ends.

    Raises FatalError, naming the variable, for a secret that cannot be read at the start.
    """
    stores = _Stores(config)
    secrets: dict[SourceName, Refreshed[Any]] = {}
    settings: dict[SourceName, str] = {}
    for setting, name, parse in _named(config):
        if name not in secrets:
            secrets[name], settings[name] = stores.refreshed(name, parse, setting), setting
    await asyncio.gather(*(_first(secrets[name], settings[name]) for name in secrets))
    async with Supervisor() as supervisor:
        for name, secret in secrets.items():
            supervisor.start(f"secret {name}", secret.run)
        with sources.held(secrets):
            yield


class _Stores:
    """Makes each kind of store once, when it is first named."""

    def __init__(self, config: ServiceConfig) -> None:
        self._config: SecretsConfig = config.secrets
        self._environment = config.environment
        self._made: dict[Kind, Store] = {}

    def refreshed(
        self, name: SourceName, parse: Callable[[str], Any], setting: str
    ) -> Refreshed[Any]:
        seconds = _FILE_SECONDS if name.kind is Kind.FILE else self._config.refresh_seconds
        if name.kind not in self._made:
            self._made[name.kind] = self._make(name.kind, setting)
        return Refreshed(name, self._made[name.kind], parse, refresh_seconds=seconds)

    def _make(self, kind: Kind, setting: str) -> Store:
        match kind:
            case Kind.FILE:
                return _Files()
            case Kind.VAULT:
                return self._vault(setting)
            case Kind.AWS:
                return _aws(self._config, setting)

    def _vault(self, setting: str) -> Store:
        config = self._config.vault
        if config is None:
            raise FatalError(f"{setting} names Vault: set ATLAS_SECRETS__VAULT__ADDRESS")
        if not is_private(config.address, self._environment):
            raise FatalError(
                "ATLAS_SECRETS__VAULT__ADDRESS: http is refused in environment"
                f" {self._environment!r}: use https"
            )
        try:
            return Vault(config)
        except OSError as error:
            raise FatalError(f"ATLAS_SECRETS__VAULT__CA_FILE: {error.strerror}") from None


class _Files:
    def fetch(self, name: str) -> Secret:
        return Secret(read_text(Path(name)))


def _aws(config: SecretsConfig, setting: str) -> Store:
    try:
        # boto3 is an extra of the package: only here it has to be there.
        from atlas_common.secrets.aws import SecretsManager  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise FatalError(
            f"{setting} names AWS Secrets Manager, which needs the extra aws of"
            f" atlas-common (an image built with LOCK=requirements-aws.lock): {error}"
        ) from error
    return SecretsManager(config.aws)


async def _first(secret: Refreshed[Any], setting: str) -> None:
    try:
        await secret.first()
    except ValueError as error:
        raise FatalError(f"{setting}: {secret.name}: {error}") from None


def _named(config: BaseModel) -> Iterator[tuple[str, SourceName, Callable[[str], Any]]]:
    """The sources that have to be read in the background, after the variables that name them."""
    for location, section in sections(config):
        for field, parse in _PARSERS.items():
            value = getattr(section, field, None)
            if value is None:
                continue
            name = SourceName.parse(value)
            # Files with logins are read for each new connection.
            if name.kind is not Kind.FILE or parse is not parse_login:
                yield variable_name((*location, field)), name, parse
