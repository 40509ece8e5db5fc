"""Which settings let a service trust whoever answers at another host."""

import pytest

from atlas_common.transport import dsn_words, unverified_kafka, unverified_postgres
from atlas_db.transport import refusal

SECRET = "s3cr3t"
VERIFIED = [
    "host=db sslmode=verify-full sslrootcert=system",
    f"postgresql://u:{SECRET}@a,b:2/atlas?sslmode=verify-full",
    "host=db hostaddr=10.0.0.1 sslmode=verify-full",
    "host=127.0.0.1",
    "host=127.8.9.1,::1,localhost",
    "host=/run/postgresql",
    "host=@abstract",
    "dbname=atlas",
    "host=localhost sslmode=disable",
]
UNVERIFIED = [
    "host=db",
    "host=db sslmode=require",
    "host=db sslmode=verify-ca sslrootcert=/ca.pem",
    "host=localhost,db",
    "host=localhost hostaddr=10.0.0.1",
    "hostaddr=10.0.0.1",
    "host=127.0.0.1.example",
    "host=10.0.0.1 sslmode=prefer",
    "service=atlas",
    "service=atlas host=localhost",
    f"postgresql://u:{SECRET}@db/atlas?sslmode=allow",
    f"postgresql://u:{SECRET}@/atlas?host=db",
]


@pytest.fixture(autouse=True)
def without_variables_of_libpq(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("PGHOST", "PGHOSTADDR", "PGSSLMODE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("dsn", VERIFIED)
def test_servers_that_are_verified_or_on_this_host(dsn: str) -> None:
    assert unverified_postgres(dsn) is None
    assert refusal(dsn, "prod") is None


@pytest.mark.parametrize("dsn", UNVERIFIED)
def test_servers_elsewhere_that_are_not(dsn: str) -> None:
    for told in (unverified_postgres(dsn), refusal(dsn, "prod")):
        assert told is not None
        assert "sslmode=verify-full" in told
        assert SECRET not in told
    assert refusal(dsn, "dev") is None


def test_what_a_dsn_leaves_out_libpq_has_from_its_variables(
    without_variables_of_libpq: pytest.MonkeyPatch,
) -> None:
    without_variables_of_libpq.setenv("PGHOST", "db")
    assert unverified_postgres("dbname=atlas") is not None
    assert refusal("dbname=atlas", "prod") is not None
    without_variables_of_libpq.setenv("PGSSLMODE", "verify-full")
    assert unverified_postgres("dbname=atlas") is None
    assert refusal("dbname=atlas", "prod") is None
    assert unverified_postgres("dbname=atlas sslmode=require") is not None


@pytest.mark.parametrize(
    "dsn", [f"postgresql://u:{SECRET}%zz@db/atlas", SECRET, f"host=db pass={SECRET}"]
)
def test_what_is_no_dsn_is_not_said_back(dsn: str) -> None:
    with pytest.raises(ValueError, match="not a connection string") as told:
        dsn_words(dsn)
    assert SECRET not in str(told.value)
    assert told.value.__cause__ is None
    refused = refusal(dsn, "dev")
    assert refused is not None
    assert SECRET not in refused


@pytest.mark.parametrize(
    ("brokers", "settings"),
    [
        ("127.0.0.1:9092,localhost:9092,[::1]:9092", {}),
        ("PLAINTEXT://localhost:9092", {}),
        ("a:9093,b:9093", {"security.protocol": "SASL_SSL", "sasl.password": SECRET}),
        ("a:9093", {"security.protocol": "ssl"}),
    ],
)
def test_brokers_that_are_verified_or_on_this_host(brokers: str, settings: dict[str, str]) -> None:
    assert unverified_kafka(brokers, settings) is None


@pytest.mark.parametrize(
    ("settings", "way_out"),
    [
        ({}, "SASL_SSL"),
        ({"security.protocol": "SASL_PLAINTEXT", "sasl.password": SECRET}, "SASL_SSL"),
        (
            {"security.protocol": "SSL", "enable.ssl.certificate.verification": "false"},
            "enable.ssl.certificate.verification",
        ),
        (
            {"security.protocol": "SSL", "ssl.endpoint.identification.algorithm": "none"},
            "ssl.endpoint.identification.algorithm",
        ),
    ],
)
def test_brokers_elsewhere_that_are_not(settings: dict[str, str], way_out: str) -> None:
    told = unverified_kafka("localhost:9092,broker:9092", settings)
    assert told is not None
    assert way_out in told
    assert SECRET not in told
