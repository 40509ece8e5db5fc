"""What a service was given in secret is in nothing that it says of its settings."""

import os
import subprocess
import sys

import pytest

CANARY = "canary4711canary"
GIVEN = {
    "ATLAS_PRIMARY__DSN": f"postgresql://reader:{CANARY}@db/atlas",
    "ATLAS_REPLICAS": f'[{{"name": "a", "dsn": "postgresql://reader:{CANARY}@db/atlas"}}]',
    "ATLAS_VALKEY__URL": f"redis://:{CANARY}@cache:6379/0",
    "ATLAS_TOKEN__KEYS": f'{{"1": "{CANARY}"}}',
    "ATLAS_TOKEN__ACTIVE_KEY": "1",
}
# Each is refused, and each is where somebody may have put the secret itself.
WRONG = {
    "ATLAS_PRIMARY__PASSWORD_SOURCE": CANARY,
    "ATLAS_PRIMARY__POOL_SIZE_MAX": CANARY,
    "ATLAS_VALKEY__URL": f"http://:{CANARY}@cache",
    "ATLAS_TOKEN__KEYS": f'{{"1": "!{CANARY}"}}',
}


def said(service: str, given: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Exit status and all that was written by a service that has been given this."""
    ended = subprocess.run(
        [sys.executable, "-m", service, *arguments],
        env={"PATH": os.defpath, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "service", ["atlas_ingest", "atlas_query", "atlas_hotcache", "atlas_cdc_reconciler"]
)
def test_help_tells_no_secret(service: str) -> None:
    status, told = said(service, GIVEN, "--help")
    assert status == 0
    assert "ATLAS_PRIMARY__PASSWORD_SOURCE" in told
    assert CANARY not in told


def test_a_refusal_of_settings_tells_no_secret() -> None:
    status, told = said("atlas_hotcache", GIVEN | WRONG)
    assert status == 2
    assert all(name in told for name in WRONG if name != "ATLAS_TOKEN__KEYS"), told
    assert "key 1 is not base64" in told
    assert CANARY not in told
