"""What tools/release wrote down of the last release is so, and the tree goes on from there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")
COMMIT = (ROOT / "protos" / "released.commit").read_text().strip()
DATABASE = "db/src/atlas_db"


def git(*arguments: str) -> bytes:
    """What git says of the last release; skips where that is not in the clone."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, check=False, timeout=60
    )
    if done.returncode != 0:
        pytest.skip(
            f"the last release, {COMMIT}, is not in this clone (git fetch --unshallow):"
            f" {done.stderr.decode().strip()}"
        )
    return done.stdout


def test_the_released_contracts_are_those_of_the_released_commit(tmp_path: Path) -> None:
    """Else `buf breaking` compares with what nobody has."""
    archive = git("archive", COMMIT, "protos")
    subprocess.run(["tar", "-x"], input=archive, cwd=tmp_path, check=True, timeout=60)
    built = tmp_path / "released.binpb"
    subprocess.run(
        [BUF, "build", "protos", "--exclude-source-info", "--output", built],
        cwd=tmp_path,
        check=True,
        timeout=60,
    )
    committed = (ROOT / "protos" / "released.binpb").read_bytes()
    assert built.read_bytes() == committed, f"run tools/release {COMMIT}"


def test_functions_and_rights_change_with_a_revision() -> None:
    """Services wait for a revision: without one they would call what is not there yet."""
    listed = git("ls-tree", "--name-only", COMMIT, f"{DATABASE}/migrations/versions/").decode()
    now = {path.name for path in (ROOT / DATABASE / "migrations" / "versions").glob("0*.sql")}
    if now - {Path(line).name for line in listed.splitlines()}:
        return
    changed = git(
        "diff", "--name-only", COMMIT, "--", f"{DATABASE}/functions", f"{DATABASE}/access"
    ).decode()
    assert changed == "", "add a revision to db/, be it empty: these changed since the last release"
