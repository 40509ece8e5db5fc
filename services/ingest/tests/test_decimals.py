"""Decimals are parsed exactly, and nothing hostile is ever expanded."""

import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_ingest import decimals


@settings(derandomize=True)
@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=18, min_value=-(10**20) + 1),
    st.sampled_from(["f", "e", ""]),
)
def test_parts_are_the_number(value: Decimal, notation: str) -> None:
    text = format(value, notation)
    parts = decimals.split(text)
    assert parts is not None
    assert parts.to_decimal() == value
    assert not parts.digits.startswith("0")
    assert not parts.digits.endswith("0")


@pytest.mark.parametrize(
    ("text", "integer_digits", "fraction_digits"),
    [
        ("0", 0, 0),
        ("-0.000", 0, 0),
        ("0e999999999", 0, 0),
        ("12.50", 2, 1),
        ("12.", 2, 0),
        (".5", 0, 1),
        ("+1e3", 4, 0),
        ("-1e-3", 0, 3),
        ("0.00120", 0, 4),
        ("1e999999", 1_000_000, 0),
        ("1e-999999", 0, 999_999),
        ("123456789012345678901234567890e-20", 10, 19),
    ],
)
def test_digits_are_counted_without_zeros(
    text: str, integer_digits: int, fraction_digits: int
) -> None:
    parts = decimals.split(text)
    assert parts is not None
    assert (parts.integer_digits, parts.fraction_digits) == (integer_digits, fraction_digits)


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "12,5", "1_000", "--1", "1e", "e5", ".", "0x1", "١", "1e5.5", "NaN", "1\n"],
)
def test_what_is_no_number_is_none(text: str) -> None:
    assert decimals.split(text) is None


@pytest.mark.parametrize("text", ["NaN", "-nan", "sNaN12", "Infinity", "-inf", "+Infinity"])
def test_names_of_what_is_not_finite(text: str) -> None:
    assert decimals.is_not_finite(text)


def test_huge_exponents_cost_nothing() -> None:
    started = time.process_time()
    for _ in range(1_000):
        decimals.split("9e999999999")
    assert time.process_time() - started < 1
