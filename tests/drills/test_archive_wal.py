"""What is put into the archive is whole, stays, and is never replaced."""

import os
import subprocess
from pathlib import Path

import pytest

from .site import SCRIPTS

NAME = "000000010000000000000007"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    archive = tmp_path / "wal"
    archive.mkdir()
    return archive


def put(directory: Path, content: bytes, archive: Path) -> "subprocess.CompletedProcess[str]":
    """Archive a segment with this content, as a server does."""
    directory.mkdir(exist_ok=True)
    (directory / NAME).write_bytes(content)
    return subprocess.run(
        [SCRIPTS / "archive-wal", directory / NAME, archive],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_segment_is_put_away_once(tmp_path: Path, archive: Path) -> None:
    for _ in range(2):  # A server that died before it was told asks again.
        said = put(tmp_path / "pg_wal", b"log", archive)
        assert said.returncode == 0, said.stderr
    assert [(path.name, path.read_bytes()) for path in archive.iterdir()] == [(NAME, b"log")]


def test_another_clusters_log_does_not_replace_it(tmp_path: Path, archive: Path) -> None:
    assert put(tmp_path / "pg_wal", b"log", archive).returncode == 0
    said = put(tmp_path / "other", b"another", archive)
    assert said.returncode == 1
    assert "must not share an archive" in said.stderr
    assert [(path.name, path.read_bytes()) for path in archive.iterdir()] == [(NAME, b"log")]


def test_storage_that_is_not_mounted_is_a_failure(tmp_path: Path) -> None:
    said = put(tmp_path / "pg_wal", b"log", tmp_path / "wal")
    assert said.returncode == 1
    assert "is the storage mounted?" in said.stderr
