"""The table of measured durations."""

from datetime import date
from pathlib import Path

import pytest

from .durations import BEGIN, END, Durations


def test_what_was_measured_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    Durations({"fire": (10, 1.0), "water": (2_000, 61.4)}).write_into(
        document, "small", date(2026, 1, 1)
    )
    Durations({"fire": (30, 2.0)}).write_into(document, "large", date(2026, 1, 2))
    before, *table, after = document.read_text().splitlines()
    assert (before, after) == ("before", "after")
    assert table[3:-1] == [
        "| fire | 30 | 2 s | large | 2026-01-02 |",
        "| water | 2,000 | 61 s | small | 2026-01-01 |",
    ]


def test_a_document_without_marks_is_refused(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("nothing to see\n")
    with pytest.raises(ValueError, match="measured"):
        Durations({}).write_into(document, "small", date(2026, 1, 1))
    assert document.read_text() == "nothing to see\n"
