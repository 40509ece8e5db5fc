"""Only an owner that lost the very lock which we hold may be ended."""

import os
from dataclasses import replace
from pathlib import Path

from atlas_cdc_reconciler.sink.ownership import Claim, hung_owner, leave_note, take_note_away

CLAIM = Claim("system/database/1", "a", hung_owner_seconds=1.0, kills=True)
REFUSAL = "Conflicting lock is held in /usr/bin/python3.11 (PID {}) by user atlas."


def test_the_owner_is_known_by_its_lock_its_pid_and_its_start(tmp_path: Path) -> None:
    path, pid = tmp_path / "w.duckdb", os.getpid()
    refusal = REFUSAL.format(pid)
    assert hung_owner(path, CLAIM, refusal) is None  # No note.
    leave_note(path, CLAIM)
    assert hung_owner(path, replace(CLAIM, instance="b"), refusal) == pid
    assert hung_owner(path, replace(CLAIM, lock="system/database/2"), refusal) is None
    assert hung_owner(path, CLAIM, REFUSAL.format(1)) is None
    assert hung_owner(path, CLAIM, "no such file") is None
    note = path.with_name("w.duckdb.owner")
    note.write_text(note.read_text().replace('"start_time": ', '"start_time": 1'))
    assert hung_owner(path, CLAIM, refusal) is None  # Another process with the same pid.
    note.write_text("{")
    assert hung_owner(path, CLAIM, refusal) is None
    take_note_away(path)
    assert not note.exists()
