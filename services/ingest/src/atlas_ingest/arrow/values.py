"""The values of one type in a batch: checked and encoded as a whole, shown one by one.

Each class holds the rows that have a value of its type, ascending, and their values in that order.
`checked(rules)` says which of them the rules of their attributes accept; `encoded(positions)` gives
the values at some positions as COPY wants them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from atlas_common.values import DataType
from atlas_ingest import encode, rules
from atlas_ingest.arrow import numerics
from atlas_ingest.rules import RefusedError, Rule

Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

_INT64 = np.iinfo(np.int64)
_SCALE = 1_000_000
_FEW = 500  # Up to so many values of varying size are put into rows faster by Python.


@dataclass(frozen=True, slots=True)
class Ruled:
    """The rules that the rows of one type are under.

    `rules`: by code of the attribute; only those of this type. `codes`: of each row its attribute,
    of `count` there are. What else than a value of the type is wrong with a row is no matter here.
    """

    rules: Mapping[int, Rule]
    count: int
    codes: Ints

    def that(self, demand: Callable[[Rule], bool]) -> "Ruled":
        """The same rows with only some of the rules."""
        chosen = {code: rule for code, rule in self.rules.items() if demand(rule)}
        return Ruled(chosen, self.count, self.codes)

    def of_each(self, of: Callable[[Rule], Any], otherwise: Any, dtype: Any) -> npt.NDArray[Any]:
        """Something of each row's rule, or what rows without one have."""
        values = np.full((self.count, *np.shape(otherwise)), otherwise, dtype=dtype)
        for code, rule in self.rules.items():
            values[code] = of(rule)
        each: npt.NDArray[Any] = values[self.codes]
        return each

    @property
    def is_free(self) -> Flags:
        """Which rows are under none of the rules."""
        return self.of_each(lambda _: False, otherwise=True, dtype=bool)


def has_range(rule: Rule) -> bool:
    """Whether the values of the attribute have a least or a greatest."""
    definition = rule.definition
    return definition is not None and not (
        definition.min_value is None and definition.max_value is None
    )


def has_choice(rule: Rule) -> bool:
    """Whether texts of the attribute are checked for more than what holds of every text."""
    definition = rule.definition
    return definition is not None and bool(definition.allowed_values or definition.validation_regex)


class TypedRows(Protocol):
    """Values of one type; see above."""

    @property
    def rows(self) -> Ints:
        """The rows that have them, ascending."""

    def value(self, at: int) -> Any:
        """The value at a position, as PointColumns would hold it."""

    def checked(self, ruled: Ruled) -> Flags:
        """Which values their rules accept."""

    def encoded(self, at: Ints | None) -> Any:
        """Values for COPY; None: all of them.

        Numbers of a fixed size; or bytes, of a few values as a list, of many as a pa.BinaryArray.
        """


@dataclass(frozen=True, slots=True)
class Bools:
    """`numbers`: 0 or 1."""

    rows: Ints
    numbers: npt.NDArray[np.uint8]

    def value(self, at: int) -> bool:
        """The value at a position."""
        return bool(self.numbers[at])

    def checked(self, ruled: Ruled) -> Flags:  # noqa: ARG002 - the protocol's.
        """All of them."""
        return np.ones(len(self.rows), dtype=bool)

    def encoded(self, at: Ints | None) -> npt.NDArray[Any]:
        """As they are."""
        return self.numbers if at is None else self.numbers[at]


@dataclass(frozen=True, slots=True)
class Integers:
    """64-bit integers."""

    rows: Ints
    numbers: Ints

    def value(self, at: int) -> int:
        """The value at a position."""
        return int(self.numbers[at])

    def checked(self, ruled: Ruled) -> Flags:
        """Those in their attributes' ranges."""
        bounded = ruled.that(has_range)
        if not bounded.rules:
            return np.ones(len(self.rows), dtype=bool)
        bounds = bounded.of_each(_int_range, (_INT64.min, _INT64.max), np.int64)
        return (bounds[:, 0] <= self.numbers) & (self.numbers <= bounds[:, 1])

    def encoded(self, at: Ints | None) -> npt.NDArray[Any]:
        """As they are."""
        return self.numbers if at is None else self.numbers[at]


def _int_range(rule: Rule) -> tuple[int, int]:
    least, most = rules.int_range(*_range(rule))
    if least > _INT64.max or most < _INT64.min:
        return 1, 0  # No number is in it.
    return max(least, _INT64.min), min(most, _INT64.max)


@dataclass(frozen=True, slots=True)
class Doubles:
    """Doubles, NaN and infinities among them."""

    rows: Ints
    numbers: npt.NDArray[np.float64]

    def value(self, at: int) -> float:
        """The value at a position."""
        return float(self.numbers[at])

    def checked(self, ruled: Ruled) -> Flags:
        """Those in their attributes' ranges; NaN is in none."""
        bounded = ruled.that(has_range)
        if not bounded.rules:
            return np.ones(len(self.rows), dtype=bool)
        bounds = bounded.of_each(_double_range, (-np.inf, np.inf), np.float64)
        inside = (bounds[:, 0] <= self.numbers) & (self.numbers <= bounds[:, 1])
        return inside | (bounded.is_free & np.isnan(self.numbers))

    def encoded(self, at: Ints | None) -> npt.NDArray[Any]:
        """As they are."""
        return self.numbers if at is None else self.numbers[at]


def _double_range(rule: Rule) -> tuple[float, float]:
    return rules.double_range(*_range(rule))


@dataclass(frozen=True, slots=True)
class Times:
    """Moments as numbers of `per_second` parts of a second since 1970."""

    rows: Ints
    numbers: Ints
    per_second: int

    def value(self, at: int) -> tuple[int, int]:
        """Seconds and nanoseconds, the form that points have."""
        seconds, parts = divmod(int(self.numbers[at]), self.per_second)
        return seconds, parts * (1_000_000_000 // self.per_second)

    def checked(self, ruled: Ruled) -> Flags:  # noqa: ARG002 - the protocol's.
        """Those in the years that a timestamp can name."""
        least = rules.TIME_SECONDS_MIN * self.per_second
        end = (rules.TIME_SECONDS_MAX + 1) * self.per_second
        # 64 bits of nanoseconds end before either bound does.
        inside = self.numbers >= max(least, _INT64.min)
        return inside if end > _INT64.max else inside & (self.numbers < end)

    def encoded(self, at: Ints | None) -> npt.NDArray[Any]:
        """Microseconds since 1970."""
        return to_us(self.numbers if at is None else self.numbers[at], self.per_second)


def to_us(numbers: Ints, per_second: int) -> Ints:
    """Parts of a second as microseconds; finer ones cut off, what 64 bits cannot hold clipped."""
    if per_second > _SCALE:
        return numbers // (per_second // _SCALE)
    factor = _SCALE // per_second
    if factor == 1:
        return numbers
    most = _INT64.max // factor
    clipped = np.clip(numbers, -most, most)
    result = clipped * factor
    result[numbers > most] = _INT64.max
    result[numbers < -most] = _INT64.min
    return result


@dataclass(frozen=True, slots=True)
class Decimals:
    """Decimals of 128 bits; `texts`: what they came as, if that was text."""

    rows: Ints
    numbers: numerics.Scaled
    precision: int
    texts: Any = None

    def value(self, at: int) -> str:
        """The value at a position, as text."""
        if self.texts is not None:
            return str(self.texts[at].as_py())
        return format(self.numbers.decimal(at), "f")

    def checked(self, ruled: Ruled) -> Flags:
        """Those with not too many digits, in their attributes' ranges."""
        accepted = self.numbers.has_digits_in_bounds(self.precision)
        bounded = ruled.that(has_range)
        if not bounded.rules:
            return accepted

        def limbs_between(bounds: tuple[Decimal | None, Decimal | None]) -> tuple[int, ...]:
            return numerics.limbs_of(numerics.scaled_range(bounds, self.numbers.scale))

        limbs = bounded.of_each(
            lambda rule: limbs_between(_range(rule)), limbs_between((None, None)), np.uint64
        )
        return accepted & self.numbers.between(limbs)

    def encoded(self, at: Ints | None) -> Any:
        """In the binary form of numeric."""
        encoded = (self.numbers if at is None else self.numbers.take(at)).encoded()
        return encoded.to_pylist() if len(encoded) <= _FEW else encoded


def _range(rule: Rule) -> tuple[Decimal | None, Decimal | None]:
    assert rule.definition is not None
    return rule.definition.min_value, rule.definition.max_value


@dataclass(frozen=True, slots=True)
class Texts:
    """Values that came as text, of TEXT, JSON or DECIMAL; each distinct one is held once.

    `distinct`: a pa.StringArray. `accepted`: which of them can be values of the type, whatever the
    attribute. `stored`: their bytes for COPY, a pa.BinaryArray.
    """

    data_type: DataType
    rows: Ints
    codes: Ints
    distinct: Any
    accepted: Flags
    stored: Any
    text_bytes: int

    def value(self, at: int) -> str:
        """The value at a position."""
        return str(self.distinct[int(self.codes[at])].as_py())

    def checked(self, ruled: Ruled) -> Flags:
        """Those that their rules accept: each distinct value, or with its attribute, is asked."""
        bound = ruled.that(has_choice if self.data_type is DataType.TEXT else has_range)
        flags = self.accepted[self.codes]
        if not bound.rules:
            return flags
        return self._paired(bound, np.flatnonzero(flags & ~bound.is_free), flags)

    def encoded(self, at: Ints | None) -> Any:
        """Texts as bytes; decimals in the binary form of numeric."""
        codes = self.codes if at is None else self.codes[at]
        if max(len(codes), len(self.stored)) > _FEW:
            return self.stored.take(pa.array(codes))
        stored = self.stored.to_pylist()
        return [stored[code] for code in codes.tolist()]

    def _paired(self, ruled: Ruled, at: Ints, flags: Flags) -> Flags:
        """Ask the rules of attributes with more demands, once for each value of each attribute."""
        count = len(self.distinct)
        pairs, where = np.unique(ruled.codes[at] * count + self.codes[at], return_inverse=True)
        attribute_codes, codes = np.divmod(pairs, count)
        texts = self.distinct.take(pa.array(codes)).to_pylist()
        good = np.ones(len(pairs), dtype=bool)
        for index, (code, text) in enumerate(zip(attribute_codes.tolist(), texts, strict=True)):
            accept = ruled.rules[code].accept
            assert accept is not None
            try:
                accept(text)
            except RefusedError:
                good[index] = False
        flags[at] = good[where]
        return flags


def texts_of(
    data_type: DataType, rows: Ints, codes: Ints, distinct: Any, *, text_bytes: int
) -> Texts:
    """Check each distinct text for what holds of all attributes of the type.

    `text_bytes`: of all texts, each counted as often as it has a code.
    """
    if data_type is DataType.TEXT:
        accepted, stored = _plain(distinct), distinct.view(pa.binary())
    else:
        accepted, stored = _asked(data_type, distinct)
    return Texts(data_type, rows, codes, distinct, accepted, stored, text_bytes)


def _plain(distinct: Any) -> Flags:
    """Which texts can be stored as they are."""
    accepted: Flags = np.ones(len(distinct), dtype=bool)
    data = distinct.buffers()[2]
    if data is None:
        return accepted
    if data.size > rules.TEXT_BYTES_MAX:
        accepted &= pc.binary_length(distinct).to_numpy() <= rules.TEXT_BYTES_MAX
    if np.frombuffer(data, dtype=np.uint8).min(initial=1) == 0:
        accepted &= ~pc.match_substring(distinct, "\0").to_numpy(zero_copy_only=False)
    return accepted


def _asked(data_type: DataType, distinct: Any) -> tuple[Flags, Any]:
    """Which texts are documents, or decimals, and those as they are stored."""
    accept = rules.new_rule(data_type).accept
    assert accept is not None
    accepted = np.ones(len(distinct), dtype=bool)
    numbers: list[bytes] = []
    for code, text in enumerate(distinct.to_pylist()):
        stored = b""
        try:
            value = accept(text)
            stored = encode.numeric(value) if isinstance(value, Decimal) else b""
        except RefusedError:
            accepted[code] = False
        numbers.append(stored)
    if data_type is DataType.DECIMAL:
        return accepted, pa.array(numbers, pa.binary())
    return accepted, distinct.view(pa.binary())
