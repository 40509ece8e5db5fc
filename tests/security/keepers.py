"""What keeps secrets for the platform: a file, Vault, AWS Secrets Manager."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import boto3

from atlas_common.config import (
    AwsConfig,
    SecretsConfig,
    VaultAppRoleConfig,
    VaultConfig,
)

from .openbao import OpenBao

KINDS = ("file", "vault", "aws")
REGION = "eu-central-1"
_REFRESH_SECONDS = 1.0


class Keeper(Protocol):
    """Keeps one secret."""

    named: str
    """As a setting names it."""
    settings: SecretsConfig

    def publish(self, secret: Mapping[str, Any]) -> None:
        """Replace it, whole."""
        ...


Keepers = Callable[[str], Keeper]


class FileKeeper:
    """As agents of secret stores do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.named = f"file:{path}"
        self.settings = SecretsConfig()

    def publish(self, secret: Mapping[str, Any]) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(secret))
        fresh.replace(self._path)


class VaultKeeper:
    """KV, version 2. Whoever reads it logs in by AppRole."""

    def __init__(self, bao: OpenBao, directory: Path, name: str) -> None:
        self._bao = bao
        self._name = name
        self.named = f"vault:secret/data/{name}"
        bao.allow(name, f"secret/data/{name}")
        self.settings = SecretsConfig(
            refresh_seconds=_REFRESH_SECONDS,
            vault=vault_config(bao, app_role=app_role(bao, directory, name, ttl="1h")),
        )

    def publish(self, secret: Mapping[str, Any]) -> None:
        self._bao.put(self._name, secret)


class AwsKeeper:
    """A version is made as AWSPENDING, and becomes AWSCURRENT when it is good, as rotation does."""

    def __init__(self, endpoint_url: str, name: str) -> None:
        self._name = name
        self._client: Any = boto3.client(
            "secretsmanager", region_name=REGION, endpoint_url=endpoint_url
        )
        self._arn = self._client.create_secret(Name=name)["ARN"]
        self.named = f"aws-secretsmanager:{self._arn}"  # Which says the region.
        self.settings = SecretsConfig(
            refresh_seconds=_REFRESH_SECONDS, aws=AwsConfig(endpoint_url=endpoint_url)
        )

    def publish(self, secret: Mapping[str, Any]) -> None:
        versions = self._client.describe_secret(SecretId=self._arn).get("VersionIdsToStages", {})
        former = [version for version, stages in versions.items() if "AWSCURRENT" in stages]
        made = self._client.put_secret_value(
            SecretId=self._arn,
            SecretString=json.dumps(secret),
            VersionStages=["AWSPENDING"] if former else ["AWSCURRENT"],
        )
        if former:
            self._client.update_secret_version_stage(
                SecretId=self._arn,
                VersionStage="AWSCURRENT",
                MoveToVersionId=made["VersionId"],
                RemoveFromVersionId=former[0],
            )

    def publish_binary(self, secret: bytes) -> None:
        """What is no text."""
        self._client.put_secret_value(SecretId=self._arn, SecretBinary=secret)


def vault_config(bao: OpenBao, **login: Any) -> VaultConfig:
    """How it is reached, logging in so."""
    return VaultConfig(address=bao.address, ca_file=str(bao.ca_file), **login)


def app_role(bao: OpenBao, directory: Path, policy: str, *, ttl: str) -> VaultAppRoleConfig:
    """A role with this policy whose tokens live so long, and the file with its secret id."""
    if "approle/" not in bao.ask("GET", "sys/auth"):
        bao.ask("POST", "sys/auth/approle", {"type": "approle"})
    role = f"auth/approle/role/{policy}"
    bao.ask("POST", role, {"token_policies": [policy], "token_ttl": ttl})
    secret_id = bao.ask("POST", f"{role}/secret-id")["data"]["secret_id"]
    file = directory / f"{policy}.secret-id"
    file.write_text(f"{secret_id}\n")
    role_id = bao.ask("GET", f"{role}/role-id")["data"]["role_id"]
    return VaultAppRoleConfig(role_id=role_id, secret_id_file=str(file))
