"""Columns of text: each distinct one found once, and decimals that came as text."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from atlas_ingest import decimals
from atlas_ingest.arrow import numerics
from atlas_ingest.arrow.values import Decimals

Ints: TypeAlias = npt.NDArray[np.int64]

_PLAIN_DECIMAL = (
    rf"^-?[0-9]{{1,{decimals.INTEGER_DIGITS_MAX}}}"
    rf"(\.[0-9]{{1,{decimals.FRACTION_DIGITS_MAX}}})?$"
)
# The characters "-./0123456789", one behind the other; a slash is in no number.
_PLAIN_MIN, _POINT, _PLAIN_MAX = b"-.9"


@dataclass(frozen=True, slots=True)
class Names:
    """A column of texts that repeat: `distinct[codes[row]]` is the row's."""

    codes: Ints
    distinct: list[str]

    def of(self, row: int) -> str:
        """The row's text."""
        return self.distinct[int(self.codes[row])]

    def used_by(self, rows: Ints) -> set[str]:
        """The texts of these rows."""
        is_used = np.zeros(len(self.distinct), dtype=bool)
        is_used[self.codes[rows]] = True
        if is_used.all():
            return set(self.distinct)
        return {self.distinct[code] for code in np.flatnonzero(is_used)}


def names(count: int, array: Any, default: str) -> Names:
    """Texts that repeat; the default for those that are null or empty, or without an array."""
    if array is None:
        return Names(np.zeros(count, dtype=np.int64), [default])
    return named(*distinct(array), default)


def named(codes: Ints, texts: Any, default: str) -> Names:
    """The same of codes, -1 for null, into distinct texts."""
    found = [text or default for text in texts.to_pylist()]
    if codes.min(initial=0) < 0:
        # A name of its own, also when the default stands among the others.
        codes = np.where(codes < 0, np.int64(len(found)), codes)
        found.append(default)
    return Names(codes, found)


def distinct(array: Any) -> tuple[Ints, Any]:
    """Codes, -1 for null, into texts of which each is used and none is there twice."""
    if not pa.types.is_dictionary(array.type):
        array = _plain(array).dictionary_encode()
        return _codes(array.indices), array.dictionary
    used, where = np.unique(_codes(array.indices), return_inverse=True)
    nulls = int((used < 0).sum())  # Sorted: one at the front, or none.
    merged = _plain(array.dictionary.take(pa.array(used[nulls:]))).dictionary_encode()
    codes = np.append(np.full(nulls, -1, dtype=np.int64), _codes(merged.indices))
    return codes[where], merged.dictionary


def plain_decimals(rows: Ints, array: Any) -> Decimals | None:
    """Decimals as most are written: no more digits than are stored, no exponent.

    pyarrow parses these. None: some are written otherwise.
    """
    texts = _plain(array)
    scale = _scale(texts)
    if scale is None:
        return None
    precision = decimals.INTEGER_DIGITS_MAX + scale
    try:
        numbers = numerics.scaled_of(texts.cast(pa.decimal128(precision, scale)))
    except pa.ArrowInvalid:
        return None
    return Decimals(rows, numbers, precision, texts=texts)


def _scale(texts: Any) -> int | None:
    """How many digits behind the point are enough for all; None: some are no plain decimals.

    Texts that have too many digits pyarrow makes other numbers of, without a word. Short ones have
    not; those of nothing but digits, points and signs it parses, or refuses, as we do.
    """
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        return None
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    characters = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]
    if (
        np.diff(bounds).max() <= decimals.INTEGER_DIGITS_MAX
        and characters.min(initial=_PLAIN_MIN) >= _PLAIN_MIN
        and characters.max(initial=_PLAIN_MAX) <= _PLAIN_MAX
    ):
        points = np.flatnonzero(characters == _POINT) + bounds[0]
        ends = bounds[np.searchsorted(bounds, points, side="right")]
        digits = int((ends - points).max(initial=1)) - 1
        return digits if digits <= decimals.FRACTION_DIGITS_MAX else None
    are_plain = pc.all(pc.match_substring_regex(texts, _PLAIN_DECIMAL)).as_py()
    return decimals.FRACTION_DIGITS_MAX if are_plain else None


def _plain(texts: Any) -> Any:
    """As a pa.StringArray."""
    return texts if pa.types.is_string(texts.type) else texts.cast(pa.string())


def _codes(indices: Any) -> Ints:
    if indices.null_count:
        indices = indices.cast(pa.int64()).fill_null(-1)
    codes: Ints = indices.to_numpy().astype(np.int64, copy=False)
    return codes
