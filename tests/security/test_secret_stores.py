"""Secrets from Vault (OpenBao, the real server) and AWS Secrets Manager (moto), while calls run."""

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from psycopg import sql
from pydantic import SecretStr

from atlas_common.config import (
    DatabaseConfig,
    SecretsConfig,
    ServiceConfig,
    TokenConfig,
    VaultWorkloadConfig,
)
from atlas_common.db import Database, direct_connection, tenant_transaction
from atlas_common.errors import FatalError, ServiceError
from atlas_common.secrets import login_source
from atlas_common.secrets.opened import secrets_opened
from atlas_common.secrets.vault import Vault
from atlas_common.token import Position, TokenSigner
from atlas_devstack.database import Database as Devstack
from atlas_devstack.dsn import dsn_as

from .keepers import KINDS, AwsKeeper, Keeper, Keepers, VaultKeeper, app_role, vault_config
from .openbao import OpenBao

LEASE_SECONDS = 8
ACME, GLOBEX = 1, 2
_CREATION = (
    """CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"""
    " IN ROLE atlas_query"
)
_REVOCATION = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'",
    'DROP ROLE IF EXISTS "{{name}}"',
)
Admin = psycopg.Connection[tuple[object, ...]]
pytestmark = pytest.mark.timeout(180)


class RotatedConfig(ServiceConfig):
    """Of a service with a login."""

    primary: DatabaseConfig


class SigningConfig(ServiceConfig):
    """Of a service that seals tokens."""

    token: TokenConfig


@pytest.fixture
def admin(fresh_database: Devstack) -> Iterator[Admin]:
    with psycopg.connect(fresh_database.admin_dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO tenants (tenant_id, key) VALUES (1, 'acme'), (2, 'globex')")
        connection.execute(
            "INSERT INTO entities (tenant_id, entity_id, key)"
            " VALUES (1, 1, 'acme-pump'), (2, 1, 'globex-pump')"
        )
        yield connection


@dataclass(frozen=True)
class Engine:
    """Vault's database engine over a database, and the name of its role."""

    bao: OpenBao
    role: str

    @property
    def source(self) -> str:
        return f"database/creds/{self.role}"

    def users(self, admin: Admin) -> set[str]:
        """Those that it made and that are there now."""
        found = admin.execute(
            "SELECT rolname, rolvaliduntil FROM pg_roles WHERE rolname LIKE %s",
            [f"v-%{self.role}%"],
        )
        rows = found.fetchall()
        assert all(until is not None for _, until in rows), "a login without an end"
        return {str(name) for name, _ in rows}


@pytest.fixture
def engine(bao: OpenBao, fresh_database: Devstack, admin: Admin) -> Iterator[Engine]:
    role = f"q{secrets.token_hex(3)}"
    if "database/" not in bao.ask("GET", "sys/mounts"):
        bao.ask("POST", "sys/mounts/database", {"type": "database"})
    manager, password = f"manager_{role}", secrets.token_hex(12)
    admin.execute(
        sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(
            sql.Identifier(manager), password
        )
    )
    connection = {
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": [role],
        "connection_url": dsn_as(fresh_database.admin_dsn, user=manager, password=password),
    }
    bao.ask("POST", f"database/config/{role}", connection)
    made = {
        "db_name": role,
        "creation_statements": [_CREATION],
        "revocation_statements": list(_REVOCATION),
        "default_ttl": f"{LEASE_SECONDS}s",
        "max_ttl": "1h",
    }
    bao.ask("POST", f"database/roles/{role}", made)
    bao.allow(role, f"database/creds/{role}")
    yield Engine(bao, role)
    bao.ask("PUT", f"sys/leases/revoke-prefix/database/creds/{role}", {"sync": True})
    bao.ask("DELETE", f"database/config/{role}")
    admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(manager)))


async def read(source: Any, tenant_id: int, key: str) -> None:
    async with tenant_transaction(source, tenant_id, read_only=True) as connection:
        rows = await (await connection.execute("SELECT key FROM entities")).fetchall()
    assert rows == [(key,)]


@asynccontextmanager
async def calls(database: Database, config: DatabaseConfig) -> AsyncIterator[list[int]]:
    """Reads of both tenants, by pooled and by new connections, all the time. Any may fail us."""
    done, ended = [0], asyncio.Event()

    async def again_and_again(tenant_id: int, key: str) -> None:
        while not ended.is_set():
            await read(database, tenant_id, key)
            async with direct_connection(config, name="direct") as direct:
                await read(direct, tenant_id, key)
            done[0] += 1

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(again_and_again(ACME, "acme-pump"))
        tasks.create_task(again_and_again(GLOBEX, "globex-pump"))
        try:
            yield done
        finally:
            ended.set()


async def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_logins_live_as_long_as_their_lease_and_no_call_fails_for_it(
    engine: Engine,
    admin: Admin,
    fresh_database: Devstack,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(engine.bao.token(engine.role))
    primary = DatabaseConfig(
        dsn=SecretStr(dsn_as(fresh_database.admin_dsn, user="nobody", password="wrong")),
        password_source=f"vault:{engine.source}",
        pool_size_max=2,
        acquire_timeout_seconds=30,
    )
    vault = vault_config(engine.bao, token_file=str(token_file))
    config = RotatedConfig(primary=primary, secrets=SecretsConfig(vault=vault))
    seen: dict[str, str] = {}

    async with secrets_opened(config), Database.open(primary, name="leased") as database:
        source = login_source(str(primary.password_source))

        def user() -> str:
            login = source.read()
            assert login.username is not None
            seen[login.username] = login.password.get_secret_value()
            return login.username

        first = user()
        async with calls(database, primary) as done:
            await until(lambda: user() != first)
            assert first in engine.users(admin), "the former login is good while it is needed"
            await until(lambda: first not in engine.users(admin))
            second, before = user(), done[0]
            await until(lambda: done[0] > before + 20 and user() != second)
    assert len(seen) >= 3
    told = caplog.text + "".join(capfd.readouterr())
    assert not [password for password in seen.values() if password in told]
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn_as(fresh_database.admin_dsn, user=first, password=seen[first]))


async def test_a_login_is_not_trusted_for_longer_than_the_token_it_was_asked_with(
    engine: Engine, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(f"{engine.bao.token(engine.role, ttl='5s')}\n")
    by_token = vault_config(engine.bao, token_file=str(token_file))
    role = app_role(engine.bao, tmp_path, engine.role, ttl="6s")
    by_role = vault_config(engine.bao, app_role=role)
    for config, most in ((by_token, 5), (by_role, 6)):
        secret = await asyncio.to_thread(Vault(config).fetch, engine.source)
        assert secret.lease_seconds is not None
        assert 0 < secret.lease_seconds <= most < LEASE_SECONDS


async def test_a_workload_logs_in_with_its_own_token(bao: OpenBao, tmp_path: Path) -> None:
    """By the method JWT, whose request is that of the method Kubernetes."""
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    bao.ask("POST", "sys/auth/jwt", {"type": "jwt"})
    trusted = {"jwt_validation_pubkeys": [public.decode()], "jwt_supported_algs": ["EdDSA"]}
    bao.ask("POST", "auth/jwt/config", trusted)
    bao.allow("workload", "secret/data/workload")
    role = {
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": ["vault"],
        "token_policies": ["workload"],
    }
    bao.ask("POST", "auth/jwt/role/query", role)
    bao.put("workload", {"password": "canary-4711"})
    now = int(time.time())
    claims = {"sub": "query", "aud": "vault", "iat": now, "exp": now + 300}
    file = tmp_path / "jwt"
    file.write_text(jwt.encode(claims, key, algorithm="EdDSA"))
    workload = VaultWorkloadConfig(role="query", jwt_file=str(file), mount="jwt")
    vault = Vault(vault_config(bao, workload=workload))
    assert "canary-4711" in (await asyncio.to_thread(vault.fetch, "secret/data/workload")).text
    file.write_text(jwt.encode({**claims, "aud": "other"}, key, algorithm="EdDSA"))
    refused = Vault(vault_config(bao, workload=workload))
    with pytest.raises(ValueError, match="refuses the login") as caught:
        await asyncio.to_thread(refused.fetch, "secret/data/workload")
    assert "eyJ" not in str(caught.value)


async def test_a_login_is_made_anew_when_its_token_was_revoked(
    bao: OpenBao, tmp_path: Path
) -> None:
    keeper = VaultKeeper(bao, tmp_path, "revoked")
    keeper.publish({"password": "first"})
    assert keeper.settings.vault is not None
    vault = Vault(keeper.settings.vault)
    await asyncio.to_thread(vault.fetch, "secret/data/revoked")
    accessors = bao.ask("LIST", "auth/token/accessors")["data"]["keys"]
    for accessor in accessors:
        about = bao.ask("POST", "auth/token/lookup-accessor", {"accessor": accessor})["data"]
        if "revoked" in about["policies"]:
            bao.ask("POST", "auth/token/revoke-accessor", {"accessor": accessor})
    keeper.publish({"password": "second"})
    assert "second" in (await asyncio.to_thread(vault.fetch, "secret/data/revoked")).text


@pytest.mark.parametrize("kind", KINDS)
async def test_keys_of_tokens_are_rotated_at_their_keeper(keepers: Keepers, kind: str) -> None:
    keys = {key_id: base64.b64encode(secrets.token_bytes(32)).decode() for key_id in (1, 2)}
    keeper = keepers(kind)

    def publish(ids: tuple[int, ...], active: int) -> None:
        listed = {str(key_id): keys[key_id] for key_id in ids}
        keeper.publish({"keys": listed, "active_key": active})

    publish((1,), 1)
    config = SigningConfig(token=TokenConfig(keys_source=keeper.named), secrets=keeper.settings)
    position = Position(0, 1, 1)
    async with secrets_opened(config):
        signer = TokenSigner.from_config(config.token)
        former = {tenant: signer.seal(tenant, [position]) for tenant in (ACME, GLOBEX)}
        publish((1, 2), 2)
        await until(lambda: signer.seal(ACME, [position]) != former[ACME])
        for tenant, token in former.items():
            assert signer.open(token, tenant) == (position,)
        publish((2,), 2)

        def is_refused() -> bool:
            try:
                signer.open(former[GLOBEX], GLOBEX)
            except ServiceError:
                return True
            return False

        await until(is_refused)
        with pytest.raises(ServiceError, match="key 1, which is not in use here") as refused:
            signer.open(former[GLOBEX], GLOBEX)
        assert refused.value.reason == "TOKEN_TAMPERED"
        assert signer.open(signer.seal(GLOBEX, [position]), GLOBEX) == (position,)


async def test_the_last_secret_goes_on_while_vault_hangs(
    bao: OpenBao, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    keeper = VaultKeeper(bao, tmp_path, "hanging")
    keeper.publish({"password": "canary-first"})
    assert keeper.settings.vault is not None
    impatient = keeper.settings.vault.model_copy(update={"timeout_seconds": 0.3})
    config = _named(keeper, keeper.settings.model_copy(update={"vault": impatient}))
    told = ""

    def said(words: str) -> bool:
        nonlocal told
        told += "".join(capfd.readouterr())
        return words in told

    def password() -> str:
        return login_source(keeper.named).read().password.get_secret_value()

    async with secrets_opened(config):
        bao.pause()
        try:
            await until(lambda: said("the last one goes on"))
            assert password() == "canary-first"
        finally:
            bao.resume()
        keeper.publish({"password": "canary-second"})
        await until(lambda: password() == "canary-second")
    said("")
    assert told.count("the last one goes on") == 1
    assert "canary-" not in told


def _named(keeper: Keeper, settings: SecretsConfig) -> RotatedConfig:
    primary = DatabaseConfig(dsn=SecretStr("host=db"), password_source=keeper.named)
    return RotatedConfig(primary=primary, secrets=settings)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("secret/data/refused-none", "no such secret"),
        ("secret/data/another", "policies do not allow it"),
        ("sys/health", "holds no secret"),
        ("secret/data/refused", "not a JSON object with the texts username and password"),
    ],
)
async def test_what_vault_does_not_give_stops_the_start_by_its_setting(
    bao: OpenBao, tmp_path: Path, path: str, problem: str
) -> None:
    keeper = VaultKeeper(bao, tmp_path, "refused")
    bao.allow("refused", "secret/data/refused*", "sys/health")
    bao.put("refused", {"canary": "canary-4711"})
    keeper.named = f"vault:{path}"
    with pytest.raises(FatalError, match=problem) as caught:
        await _open(_named(keeper, keeper.settings))
    assert str(caught.value).startswith(f"ATLAS_PRIMARY__PASSWORD_SOURCE: vault:{path}: ")
    assert "canary-4711" not in str(caught.value)


async def test_a_vault_is_not_believed_without_its_authority(bao: OpenBao, tmp_path: Path) -> None:
    keeper = VaultKeeper(bao, tmp_path, "unbelieved")
    keeper.publish({"password": "canary-4711"})
    assert keeper.settings.vault is not None
    anybody = keeper.settings.vault.model_copy(update={"ca_file": None})
    settings = keeper.settings.model_copy(update={"vault": anybody})
    with pytest.raises(FatalError, match="no connection: SSLCertVerificationError"):
        await _open(_named(keeper, settings))


async def test_what_aws_does_not_give_stops_the_start_by_its_setting(
    aws: str, aws_credentials: None
) -> None:
    keeper = AwsKeeper(aws, f"binary-{secrets.token_hex(4)}")
    keeper.publish_binary(b"canary-4711")
    with pytest.raises(FatalError, match="the secret is no text"):
        await _open(_named(keeper, keeper.settings))
    keeper.named = "aws-secretsmanager:arn:aws:secretsmanager:eu-central-1:1:secret:none"
    with pytest.raises(FatalError, match="AWS answers ResourceNotFoundException") as caught:
        await _open(_named(keeper, keeper.settings))
    assert str(caught.value).startswith("ATLAS_PRIMARY__PASSWORD_SOURCE: aws-secretsmanager:arn:")


async def _open(config: ServiceConfig) -> None:
    async with secrets_opened(config):
        pass
