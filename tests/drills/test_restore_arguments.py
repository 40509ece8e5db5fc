"""restore-to-time refuses what would end in another cluster than the one that was meant."""

import os
import subprocess
from pathlib import Path

import pytest

from .site import SCRIPTS


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"--target": "2026-03-01 12:00:00"}, "names no time with its zone"),
        ({"--target": "2026-03-01"}, "names no time with its zone"),
        ({"--target": "2026-13-01 12:00Z"}, "is no time"),
        ({"--target": "2026-03-01Z", "--target-xid": "7"}, "one of --target and --target-xid"),
        ({"--target": ""}, "--target wants a value"),
        ({"--target-xid": "0x7"}, "'0x7' is no number"),
        ({"--pgdata": "restored"}, "'restored' is no absolute path"),
        ({"--backups": "/nowhere"}, "there is no directory '/nowhere'"),
        ({"--archive": "/nowhere"}, "there is no directory '/nowhere'"),
        ({"--port": "here"}, "'here' is no number"),
        ({"--timeline": "newest"}, "'newest' is no number, nor latest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_are_named(tmp_path: Path, changed: dict[str, str], reason: str) -> None:
    given = {
        "--backups": str(tmp_path),
        "--archive": str(tmp_path),
        "--pgdata": str(tmp_path / "restored"),
        "--port": "5433",
        **changed,
    }
    if "--target-xid" not in given and "--target" not in given:
        given["--target"] = "latest"
    said = subprocess.run(
        [SCRIPTS / "restore-to-time", *(word for pair in given.items() for word in pair)],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 2, said.stderr
    assert reason in said.stderr
    assert not (tmp_path / "restored").exists()
