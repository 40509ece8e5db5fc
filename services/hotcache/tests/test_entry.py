"""Entries survive their encoding; anything else is a miss."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_hotcache.entry import (
    HEADER_BYTES,
    VERSION_MAX,
    Entry,
    decode,
    encode,
    new_generation,
    version_text,
)

versions = st.integers(0, VERSION_MAX)
generations = st.text("0123456789abcdef", min_size=16, max_size=16)
entries = st.builds(Entry, generations, versions, st.none() | st.binary(max_size=50))


@given(entries)
def test_decode_gives_back_what_was_encoded(entry: Entry) -> None:
    assert decode(encode(entry)) == entry


@given(versions, versions)
def test_versions_compare_as_text_as_they_do_as_numbers(left: int, right: int) -> None:
    assert (version_text(left) < version_text(right)) == (left < right)


@given(st.binary(max_size=60))
def test_foreign_bytes_are_no_entry_or_encode_to_themselves(raw: bytes) -> None:
    entry = decode(raw)
    assert entry is None or decode(encode(entry)) == entry


@given(entries, st.integers(0, HEADER_BYTES - 1))
def test_a_truncated_header_is_a_miss(entry: Entry, size: int) -> None:
    assert decode(encode(entry)[:size]) is None


@pytest.mark.parametrize("version", [-1, VERSION_MAX + 1])
def test_a_version_out_of_range_is_refused(version: int) -> None:
    with pytest.raises(ValueError, match="no version"):
        version_text(version)


def test_generations_differ() -> None:
    assert len({new_generation() for _ in range(100)}) == 100
