"""Logins from files: the newest one, the last one while a file is broken, and never told."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from atlas_common.config import DatabaseConfig
from atlas_common.db.connection import connect_arguments
from atlas_common.secrets import login_source
from atlas_common.secrets.file import SECRET_BYTES_MAX, LoginFile

CANARY = "canary-4711"


def test_a_rotated_password_is_given_to_the_next_connection(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    config = DatabaseConfig(
        dsn=SecretStr("postgresql://reader:in-the-dsn@db/atlas"), password_source=f"file:{file}"
    )
    first = connect_arguments(config, "test")
    assert (first["user"], first["password"]) == ("reader", "first")
    file.write_text(json.dumps({"username": "reader_b", "password": "second", "engine": "x"}))
    second = connect_arguments(config, "test")
    assert (second["user"], second["password"]) == ("reader_b", "second")


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\n",
        b'{"password": "canary-4711"',
        b'{"username": "canary-4711"}',
        b'{"password": ["canary-4711"]}',
        b"canary-4711\xff",
        b"canary-4711\0",
        b"canary-4711" + b"x" * SECRET_BYTES_MAX,
        None,
    ],
)
def test_the_last_login_goes_on_while_its_file_is_broken(
    tmp_path: Path, broken: bytes | None
) -> None:
    file = tmp_path / "password"
    file.write_text("good")
    source = LoginFile(file)
    good = source.read()
    if broken is None:
        file.unlink()
    else:
        file.write_bytes(broken)
    assert source.read() == good
    with pytest.raises(ValueError, match=str(file)) as caught:
        LoginFile(file).read()
    assert CANARY not in str(caught.value)


def test_a_login_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(CANARY)
    assert CANARY not in repr(LoginFile(file).read())


@pytest.mark.parametrize(
    "named",
    [
        CANARY,
        f"file:{CANARY}",
        "file:",
        f"vault:{CANARY}",
        f"vault:/secret/{CANARY}",
        f"vault:secret/../sys/{CANARY}",
        f"vault:secret/data/a?{CANARY}",
        f"vault:secret/data/a#{CANARY}",
        f"vault:secret/data/é{CANARY}",
        "aws-secretsmanager:",
        f"aws-secretsmanager:a b{CANARY}",
        f"vaults:secret/data/{CANARY}",
        f"vault:secret/{CANARY * 200}",
    ],
)
def test_what_is_no_source_is_refused_and_not_repeated(named: str) -> None:
    with pytest.raises(ValueError, match="file:/absolute/path") as caught:
        login_source(named)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "named",
    [
        "vault:secret/data/atlas/query",
        "vault:database/creds/atlas-query",
        "aws-secretsmanager:prod/atlas",
        "aws-secretsmanager:arn:aws:secretsmanager:eu-central-1:123456789012:secret:atlas-AbC123",
    ],
)
def test_a_store_that_nobody_opened_is_named(named: str) -> None:
    source = login_source(named)
    assert source is login_source(named)
    with pytest.raises(ValueError, match=f"{named}: not opened"):
        source.read()


def test_settings_with_a_source_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="No such file"):
        DatabaseConfig(dsn=SecretStr("host=db"), password_source=f"file:{tmp_path}/none")
