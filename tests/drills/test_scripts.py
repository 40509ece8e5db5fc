"""The scripts of ops/recovery say how they are used, and refuse what they do not know."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .site import SCRIPTS

PROGRAMS = sorted(path for path in SCRIPTS.iterdir() if os.access(path, os.X_OK))


def run(script: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
    return subprocess.run(
        [script, *arguments], env={"PATH": path}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("script", PROGRAMS, ids=lambda script: script.name)
def test_a_script_says_how_it_is_used(script: Path) -> None:
    said = run(script, "--help")
    assert said.returncode == 0, said.stderr
    assert "example:\n" in said.stdout
    assert script.name in said.stdout


@pytest.mark.parametrize("script", PROGRAMS, ids=lambda script: script.name)
def test_a_script_refuses_what_it_does_not_know(script: Path) -> None:
    said = run(script, "--surprise")
    assert said.returncode == 2
    assert "--surprise" in said.stderr


def test_a_disaster_is_not_made_worse_by_a_directory_that_is_not_there(tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse.duckdb"
    warehouse.touch()
    script = SCRIPTS / "rebuild-warehouse"
    commands = ("--stop", f"rm {warehouse}", "--start", "false")
    said = run(script, "--warehouse", str(warehouse), *commands, "--archives", f"{tmp_path}/none")
    assert said.returncode == 2
    assert "none" in said.stderr
    assert warehouse.exists()
