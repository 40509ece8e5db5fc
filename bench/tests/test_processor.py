"""Who used the processor, and who waited for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atlas_bench import processor
from atlas_bench.read.under_ingest import queued_shares

SPIN = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"


def test_a_crowd_on_one_core_waits_for_it(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    before = processor.read(tmp_path)
    crowd = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import os; os.sched_setaffinity(0, [{core}])\n{SPIN}\ninput('spun')",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for one in crowd:
        assert one.stdout is not None
        assert one.stdout.read(4) == b"spun"
    after = processor.read(tmp_path)
    for one in crowd:
        one.communicate(b"\n")
    # Four who each want 0.2 s of one core: together they wait for 0.2 + 0.4 + 0.6 s, about.
    assert after.queued_since(before)[processor.BENCH] > 0.3
    assert after.since(before)[processor.BENCH] > 0.7
    assert 0 < after.busy_share_since(before) <= 1.1


def test_a_share_is_of_the_time_in_which_a_part_wanted_a_core() -> None:
    runs = [
        {"processor_seconds": {"query": 1.0, "ingest": 2.0}, "queued_seconds": {"query": 4.0}},
        {"processor_seconds": {"query": 1.0}, "queued_seconds": {"query": 2.0, "ingest": 2.0}},
    ]
    assert queued_shares(runs) == {"query": pytest.approx(0.75), "ingest": pytest.approx(0.5)}
