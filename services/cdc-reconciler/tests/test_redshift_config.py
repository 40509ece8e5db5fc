"""What the Redshift sink can be told, and how a mistake is named."""

import pytest

from atlas_cdc_reconciler.config import Config
from atlas_common.config import load

RIGHT = {
    "ATLAS_PRIMARY__DSN": "postgresql://localhost/atlas",
    "ATLAS_DIRECT__DSN": "postgresql://localhost/atlas",
    "ATLAS_TOKEN__KEYS": '{"1": "MDEyMzQ1Njc4OWFiY2RlZg=="}',
    "ATLAS_TOKEN__ACTIVE_KEY": "1",
    "ATLAS_WAREHOUSE__PATH": "/tmp/warehouse.duckdb",
    "ATLAS_SINK__KIND": "redshift",
    "ATLAS_SINK__REDSHIFT__HOST": "atlas.abc.eu-central-1.redshift.amazonaws.com",
    "ATLAS_SINK__REDSHIFT__DATABASE": "atlas",
    "ATLAS_SINK__REDSHIFT__USER": "atlas_reconciler",
    "ATLAS_SINK__REDSHIFT__PASSWORD": "secret",
    "ATLAS_SINK__REDSHIFT__IAM_ROLE": "arn:aws:iam::123456789012:role/atlas/copy",
    "ATLAS_SINK__REDSHIFT__BUCKET": "atlas-staging",
    "ATLAS_SINK__REDSHIFT__REGION": "eu-central-1",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in RIGHT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_all_that_is_needed_is_enough(environment: pytest.MonkeyPatch) -> None:
    redshift = load(Config, []).sink.redshift
    assert redshift is not None
    assert (redshift.port, redshift.tls, redshift.schema_name) == (5439, True, "atlas")
    assert "secret" not in str(redshift)


def test_duckdb_is_what_nobody_asked_for(environment: pytest.MonkeyPatch) -> None:
    for name in RIGHT:
        if name.startswith("ATLAS_SINK"):
            environment.delenv(name)
    assert load(Config, []).sink.kind == "duckdb"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IAM_ROLE", "arn:aws:iam::1:role/x"),
        ("IAM_ROLE", "arn:aws:iam::123456789012:role/x' CSV"),
        ("BUCKET", "s3://atlas"),
        ("PREFIX", "/cdc"),
        ("PREFIX", "cdc'/x"),
        ("SCHEMA_NAME", 'atlas"; DROP'),
        ("PORT", "0"),
    ],
)
def test_a_bad_value_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    environment.setenv(f"ATLAS_SINK__REDSHIFT__{name}", value)
    with pytest.raises(SystemExit) as stopped:
        load(Config, [])
    assert stopped.value.code == 2
    assert f"ATLAS_SINK__REDSHIFT__{name}: " in capsys.readouterr().err


def test_a_cluster_without_its_address_is_refused(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.delenv("ATLAS_SINK__REDSHIFT__BUCKET")
    with pytest.raises(SystemExit):
        load(Config, [])
    assert "ATLAS_SINK__REDSHIFT__BUCKET: Field required" in capsys.readouterr().err
    for name in RIGHT:
        if name.startswith("ATLAS_SINK__REDSHIFT"):
            environment.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        load(Config, [])
    told = capsys.readouterr().err
    assert "ATLAS_SINK: " in told
    assert "ATLAS_SINK__REDSHIFT__HOST and so on are not set" in told


def test_a_cluster_elsewhere_is_verified_outside_dev(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("ATLAS_ENVIRONMENT", "prod")
    assert load(Config, []).sink.kind == "redshift"
    environment.setenv("ATLAS_SINK__REDSHIFT__TLS", "false")
    with pytest.raises(SystemExit):
        load(Config, [])
    assert "ATLAS_SINK__REDSHIFT__TLS: refused in environment 'prod'" in capsys.readouterr().err
