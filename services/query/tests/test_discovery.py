import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr, ValidationError

from atlas_common.config import DatabaseConfig, ReplicaConfig
from atlas_query.config import DiscoveryConfig
from atlas_query.discovery import DNS_KEEP_SECONDS, DiscoveryError, DnsName, ReplicaFile

DSN = "postgresql://atlas_query:hush@replicas.example:5433/atlas?sslmode=verify-full"


async def test_a_file_is_what_the_variable_would_be(tmp_path: Path) -> None:
    path = tmp_path / "replicas.json"
    path.write_text(json.dumps([{"name": "a", "dsn": DSN, "pool_size_max": 3}]))
    (replica,) = await ReplicaFile(path, "dev").replicas()
    assert (replica.name, replica.pool_size_max) == ("a", 3)
    path.write_text("[]")
    assert await ReplicaFile(path, "dev").replicas() == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Expecting value"),
        ("{}", "Input should be a valid tuple"),
        ('[{"name": "a"}]', "[0][dsn]: Field required"),
        ('[{"name": "a", "dsn": "host=hush", "pool": 1}]', "[0][pool]: Extra inputs"),
        (
            '[{"name": "a", "dsn": "host=hush"}, {"name": "a", "dsn": "host=b"}]',
            "names that differ",
        ),
        ('[{"name": "a", "dsn": "hush"}]', "[0][dsn]: Value error, not a connection string"),
        ('[{"name": "primary", "dsn": "host=hush"}]', "names that differ, and from 'primary'"),
        (json.dumps([{"name": str(n), "dsn": "host=hush"} for n in range(33)]), "more than 32"),
        ("[" + " " * 2**20 + "]", "more than 1048576 bytes"),
    ],
)
async def test_a_broken_file_is_told_with_the_place_and_without_secrets(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "replicas.json"
    path.write_text(text)
    with pytest.raises(DiscoveryError) as raised:
        await ReplicaFile(path, "dev").replicas()
    assert problem in str(raised.value)
    assert str(path) in str(raised.value)
    assert "hush" not in str(raised.value)


async def test_replicas_elsewhere_are_verified_outside_dev(tmp_path: Path) -> None:
    path = tmp_path / "replicas.json"
    path.write_text(json.dumps([{"name": "a", "dsn": DSN}]))
    (replica,) = await ReplicaFile(path, "prod").replicas()
    assert replica.name == "a"
    path.write_text(
        json.dumps(
            [
                {"name": "a", "dsn": DSN},
                {"name": "b", "dsn": DSN.replace("verify-full", "verify-ca")},
            ]
        )
    )
    with pytest.raises(
        DiscoveryError, match=r"\[1\]\[dsn\]: refused in environment 'prod'"
    ) as told:
        await ReplicaFile(path, "prod").replicas()
    assert "sslmode=verify-full" in str(told.value)
    assert "hush" not in str(told.value)


async def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DiscoveryError, match="No such file"):
        await ReplicaFile(tmp_path / "none.json", "dev").replicas()


class Names:
    """Answers of DNS, one after another."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self.answers = list(answers)
        self.now = 0.0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        assert (host, port) == ("replicas.example", 5433)
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


def dns(names: Names) -> DnsName:
    config = DatabaseConfig(dsn=SecretStr(DSN), pool_size_max=5)
    return DnsName(config, lambda: names.now, names)


def told(replicas: tuple[ReplicaConfig, ...]) -> list[str]:
    return [replica.name for replica in replicas]


async def test_each_address_of_a_name_is_a_replica() -> None:
    first, second = await dns(Names(["10.0.0.2", "10.0.0.1"])).replicas()
    assert (first.name, second.name) == ("10.0.0.1:5433", "10.0.0.2:5433")
    assert first.pool_size_max == 5
    given = conninfo_to_dict(first.dsn.get_secret_value())
    # The name stays for the certificate, the address is where it connects to.
    assert (given["host"], given["hostaddr"]) == ("replicas.example", "10.0.0.1")
    assert given["sslmode"] == "verify-full"


async def test_addresses_told_in_turns_are_all_kept_for_a_while() -> None:
    names = Names(["10.0.0.1"], ["10.0.0.2"], OSError("no such name"), ["10.0.0.2"])
    found = dns(names)
    assert told(await found.replicas()) == ["10.0.0.1:5433"]
    names.now = DNS_KEEP_SECONDS - 1
    assert told(await found.replicas()) == ["10.0.0.1:5433", "10.0.0.2:5433"]
    with pytest.raises(DiscoveryError, match=r"replicas\.example: no such name"):
        await found.replicas()
    names.now = DNS_KEEP_SECONDS + 1
    assert told(await found.replicas()) == ["10.0.0.2:5433"]


async def test_the_machines_resolver_is_asked() -> None:
    config = DatabaseConfig(dsn=SecretStr("host=localhost dbname=atlas"))
    assert "127.0.0.1:5432" in told(await DnsName(config, lambda: 0.0).replicas())


@pytest.mark.parametrize("dsn", ["dbname=atlas", "host=/run/postgres", "host=a,b"])
def test_dns_needs_one_name(dsn: str) -> None:
    with pytest.raises(ValidationError, match="one host, by a name"):
        DiscoveryConfig(dns=DatabaseConfig(dsn=SecretStr(dsn)))


def test_a_file_and_a_name_are_too_much() -> None:
    with pytest.raises(ValidationError, match="set one"):
        DiscoveryConfig(file="a", dns=DatabaseConfig(dsn=SecretStr("host=a")))
