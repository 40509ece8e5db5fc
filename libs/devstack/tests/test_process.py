"""Logs stay bounded while they are written to."""

from pathlib import Path

import pytest

from atlas_devstack import process
from atlas_devstack.process import bound_log, tail


def test_a_log_that_grew_too_large_is_set_aside_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOG_BYTES_MAX", 10)
    path = tmp_path / "service.log"
    with path.open("a") as writer:
        writer.write("the first eleven bytes\n")
        writer.flush()
        bound_log(path)
        writer.write("after\n")
    bound_log(path)
    assert path.read_text() == "after\n"
    assert (tmp_path / "service.log.1").read_text() == "the first eleven bytes\n"


def test_the_tail_of_a_log_is_short_and_never_fails(tmp_path: Path) -> None:
    assert tail(tmp_path / "none.log") == "    (no log)"
    (tmp_path / "long.log").write_bytes(b"\xff\n" + b"line\n" * 100_000)
    assert tail(tmp_path / "long.log", lines_max=2) == "    line\n    line"
