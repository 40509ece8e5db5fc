"""What stops a service whose settings name a store that it cannot ask."""

import sys

import pytest
from pydantic import SecretStr, ValidationError

from atlas_common.config import DatabaseConfig, SecretsConfig, ServiceConfig, VaultConfig
from atlas_common.errors import FatalError
from atlas_common.secrets.opened import secrets_opened


class Config(ServiceConfig):
    """Of a service with logins."""

    replicas: tuple[DatabaseConfig, ...] = ()


def config(named: str, **settings: object) -> Config:
    replica = DatabaseConfig(dsn=SecretStr("host=db"), password_source=named)
    return Config.model_validate({"replicas": (replica,), **settings})


async def opened(config: Config) -> None:
    async with secrets_opened(config):
        pass


async def test_vault_needs_an_address() -> None:
    with pytest.raises(FatalError) as caught:
        await opened(config("vault:secret/data/atlas"))
    assert str(caught.value) == (
        "ATLAS_REPLICAS[0].password_source names Vault: set ATLAS_SECRETS__VAULT__ADDRESS"
    )


async def test_vault_is_not_asked_in_the_clear_in_production() -> None:
    vault = VaultConfig(address="http://vault.example:8200", token_file="/token")
    settings = SecretsConfig(vault=vault)
    with pytest.raises(FatalError, match="http is refused in environment 'prod': use https"):
        await opened(config("vault:secret/data/atlas", secrets=settings, environment="prod"))


async def test_aws_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "atlas_common.secrets.aws", raising=False)
    with pytest.raises(FatalError, match="needs the extra aws of atlas-common"):
        await opened(config("aws-secretsmanager:atlas"))


@pytest.mark.parametrize(
    "given",
    [
        {"address": "https://vault:8200"},
        {"address": "https://vault:8200", "token_file": "/a", "workload": {"role": "b"}},
        {"address": "https://vault:8200/v1?x=1", "token_file": "/a"},
        {"address": "ftp://vault:8200", "token_file": "/a"},
    ],
)
def test_vault_is_logged_in_to_in_one_way(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"set one of|match pattern"):
        VaultConfig.model_validate(given)
