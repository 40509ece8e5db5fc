"""Settings from the environment: what is accepted, and how a mistake is told."""

import json
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from atlas_common.config import (
    DatabaseConfig,
    PeerConfig,
    ReplicaConfig,
    RpcConfig,
    ServiceConfig,
    TokenConfig,
    load,
)

KEY = "YWFhYWFhYWFhYWFhYWFhYWFhYWE="


class Config(ServiceConfig):
    """Settings of a service in a test."""

    primary: DatabaseConfig = Field(description="The primary.")
    replicas: tuple[ReplicaConfig, ...] = Field(default=(), description="The replicas.")
    token: TokenConfig = Field(description="The keys.")
    peer: PeerConfig | None = Field(default=None, description="Another service.")


GOOD = {
    "ATLAS_PRIMARY__DSN": "postgresql://atlas_query:hunter2@db/atlas",
    "ATLAS_TOKEN__KEYS": json.dumps({"3": KEY}),
    "ATLAS_TOKEN__ACTIVE_KEY": "3",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        load(Config, [])
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hunter2" not in captured.err
    return captured.err


def test_values_come_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ATLAS_RPC__PORT", "7001")
    environment.setenv("ATLAS_REPLICAS", '[{"name": "replica-1", "dsn": "host=r1"}]')
    environment.setenv("ATLAS_PEER__TARGET", "localhost:1")
    config = load(Config, [])
    assert config.rpc.port == 7001
    assert config.rpc.host == "127.0.0.1"
    assert config.replicas[0].name == "replica-1"
    assert config.replicas[0].dsn.get_secret_value() == "host=r1"
    assert config.replicas[0].pool_size_max == 8
    assert config.peer is not None
    assert config.peer.timeout_seconds == 5.0
    assert config.token.ring().keys == {3: b"a" * 20}
    assert config.instance


def test_settings_are_frozen() -> None:
    config = load(Config, [])
    with pytest.raises(ValidationError):
        config.rpc.port = 1
    with pytest.raises(ValidationError):
        config.environment = "prod"


def test_secrets_come_from_files_and_the_environment_wins(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.delenv("ATLAS_PRIMARY__DSN")
    environment.setenv("ATLAS_SECRETS_DIR", str(tmp_path))
    (tmp_path / "ATLAS_PRIMARY__DSN").write_text("host=from-file\n")
    (tmp_path / "ATLAS_TOKEN__ACTIVE_KEY").write_text("9")
    config = load(Config, [])
    assert config.primary.dsn.get_secret_value() == "host=from-file"
    assert config.token.active_key == 3


def test_a_secrets_directory_that_is_missing_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    environment.setenv("ATLAS_SECRETS_DIR", str(tmp_path / "nowhere"))
    assert refused(capsys).startswith("ATLAS_SECRETS_DIR: ")


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ATLAS_RPC__PORT", "http", "ATLAS_RPC__PORT: Input should be a valid integer"),
        ("ATLAS_RPC__PORT", "70000", "ATLAS_RPC__PORT: Input should be less than or equal to"),
        ("ATLAS_RPC__PROT", "1", "ATLAS_RPC__PROT: Extra inputs are not permitted"),
        ("ATLAS_ENVIRONMENT", "test", "ATLAS_ENVIRONMENT: Input should be 'dev', 'staging' or"),
        ("ATLAS_REPLICAS", '[{"name": "r"}]', "ATLAS_REPLICAS[0].dsn: Field required"),
        ("ATLAS_REPLICAS", "[{", "ATLAS_REPLICAS: not valid JSON"),
        ("ATLAS_TOKEN__KEYS", '{"3": x}', "ATLAS_TOKEN__KEYS: not valid JSON"),
        ("ATLAS_TOKEN__KEYS", '{"3": "YQ=="}', "ATLAS_TOKEN: Value error, key 3: ids are 1..255"),
        ("ATLAS_TOKEN__KEYS", '{"3": "~"}', "ATLAS_TOKEN: Value error, key 3 is not base64"),
        (
            "ATLAS_TOKEN__KEYS",
            f'{{"300": "{KEY}"}}',
            "ATLAS_TOKEN: Value error, the active key 3 is",
        ),
        ("ATLAS_TOKEN__ACTIVE_KEY", "4", "ATLAS_TOKEN: Value error, the active key 4 is not among"),
        ("ATLAS_PRIMARY__POOL_SIZE_MIN", "9", "ATLAS_PRIMARY: Value error, pool_size_min is"),
    ],
)
def test_a_bad_value_stops_us_by_its_name(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    told: str,
) -> None:
    environment.setenv(variable, value)
    assert refused(capsys).startswith(told)


def test_every_missing_variable_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in GOOD:
        environment.delenv(name)
    required = [f"{name}: Field required" for name in GOOD if "TOKEN" not in name]
    *told, token = sorted(refused(capsys).splitlines())
    assert told == sorted(required)
    assert token.startswith("ATLAS_TOKEN: Field required: ")
    assert token.endswith("set keys and active_key, or keys_source.")


def test_check_config_prints_the_effective_settings_without_secrets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        load(Config, ["--check-config"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    described = json.loads(out)
    assert described["rpc"]["grace_seconds"] == 10.0
    assert described["primary"]["dsn"] == "**********"
    assert "hunter2" not in out
    assert KEY not in out


def test_help_lists_every_variable_with_its_description_and_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        load(Config, ["--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "ATLAS_RPC__PORT\n      Port to listen on; 0 picks a free one. Default: 0." in out
    assert "ATLAS_PRIMARY__DSN\n      libpq connection string" in out
    assert "Required." in out
    for name in ("ATLAS_SECRETS_DIR", "ATLAS_REPLICAS", "ATLAS_PEER__TARGET", *GOOD):
        assert f"  {name}\n" in out


def test_every_field_is_described() -> None:
    for model in (RpcConfig, DatabaseConfig, ReplicaConfig, PeerConfig, TokenConfig, ServiceConfig):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def test_servers_elsewhere_are_verified_outside_dev(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = "postgresql://u:hunter2@db/atlas"
    environment.setenv("ATLAS_REPLICAS", json.dumps([{"name": "a", "dsn": elsewhere}]))
    assert load(Config, []).environment == "dev"
    environment.setenv("ATLAS_ENVIRONMENT", "prod")
    told = refused(capsys).splitlines()
    assert [line.split(": refused in environment 'prod'")[0] for line in told] == [
        "ATLAS_PRIMARY__DSN",
        "ATLAS_REPLICAS[0].dsn",
    ]
    assert all("sslmode=verify-full" in line for line in told)
    verified = f"{elsewhere}?sslmode=verify-full"
    environment.setenv("ATLAS_PRIMARY__DSN", verified)
    environment.setenv("ATLAS_REPLICAS", json.dumps([{"name": "a", "dsn": verified}]))
    assert load(Config, []).environment == "prod"


def test_a_dsn_that_is_none_is_not_said_back(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("ATLAS_PRIMARY__DSN", "postgresql://u:hunter2%zz@db/atlas")
    assert "ATLAS_PRIMARY__DSN: Value error, not a connection string" in refused(capsys)
