"""Points made to hurt: strategies, and an oracle that says what must become of each.

The oracle is written from the contract (value.proto, error.proto), not from the service: for a
point it names every reason it may be refused for, none if it has to be stored, and then the value
that must be read back.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.type.v1 import value_pb2

TYPES = ("bool", "int", "double", "decimal", "text", "time", "json")
TEXT_BYTES_MAX = 65_536
JSON_DEPTH_MAX = 64
JSON_NUMBER_MAX = 400  # Digits, and exponent.
TIME_SECONDS = (-62_135_596_800, 253_402_300_799)
LOWEST, HIGHEST = Decimal("-12.5"), Decimal("1e3")
ALLOWED = ("", "on", "off", "é")
PATTERN = "[A-Z]{2}[0-9]+"

_HOT_TYPES = {type_: f"hot-{type_}" for type_ in TYPES}
_COLD_TYPES = {type_: f"cold-{type_}" for type_ in TYPES}
_BOUNDED = {type_: f"bounded-{type_}" for type_ in ("int", "double", "decimal")}
CHOICE, SERIAL = "choice", "serial"
ATTRIBUTE_TYPES: Mapping[str, str] = {
    **{name: type_ for type_, name in (*_HOT_TYPES.items(), *_COLD_TYPES.items())},
    **{name: type_ for type_, name in _BOUNDED.items()},
    CHOICE: "text",
    SERIAL: "text",
}
HOT = frozenset(_HOT_TYPES.values())


def attributes() -> list[catalog_pb.Attribute]:
    """What the strategies write to, for each tenant to be defined."""
    made = []
    for name, type_ in ATTRIBUTE_TYPES.items():
        attribute = catalog_pb.Attribute(
            name=name,
            data_type=value_pb2.DataType.Value(f"DATA_TYPE_{type_.upper()}"),
            hot=name in HOT,
        )
        if name in _BOUNDED.values():
            attribute.min_value, attribute.max_value = str(LOWEST), str(HIGHEST)
        made.append(attribute)
    by_name = {attribute.name: attribute for attribute in made}
    by_name[CHOICE].allowed_values.extend(ALLOWED)
    by_name[SERIAL].validation_regex = PATTERN
    return made


@dataclass(frozen=True)
class HostilePoint:
    """A point; `value` as the wire has it, of a TIME (seconds, nanos); `type_` None: no value.

    `far_us`: an event time far off; None: one that is fine, which the test chooses.
    """

    key: str
    attribute: str
    type_: str | None
    value: Any
    quality: int = 0
    far_us: int | None = None

    def message(self, event_time_us: int) -> value_pb2.Point:
        """As Write takes it."""
        message = value_pb2.Point(
            entity_key=self.key,
            attribute=self.attribute,
            event_time_us=event_time_us if self.far_us is None else self.far_us,
            quality=self.quality,
        )
        if self.type_ == "time":
            seconds, nanos = self.value
            message.time_value.CopyFrom(Timestamp(seconds=seconds, nanos=nanos))
        elif self.type_ is not None:
            setattr(message, f"{self.type_}_value", self.value)
        return message

    def problems(self) -> set[str]:
        """The reasons for which it may be refused; none: it must be stored."""
        found = set(_key_problems(self.key))
        type_ = ATTRIBUTE_TYPES.get(self.attribute)
        if not 0 < _size(self.attribute) <= 128 or _has_control(self.attribute):
            found.add("INVALID_FIELD")
        elif type_ is None:
            found.add("ATTRIBUTE_UNKNOWN")
        if self.type_ is None:
            found.add("VALUE_MISSING")
        elif type_ is not None and type_ != self.type_:
            found.add("TYPE_MISMATCH")
        elif type_ is not None:
            found |= value_problems(self.attribute, self.type_, self.value)
        if self.far_us is not None:
            found.add("EVENT_TIME_OUT_OF_WINDOW")
        if self.quality > 255:
            found.add("INVALID_FIELD")
        return found


def value_problems(attribute: str, type_: str, value: Any) -> set[str]:
    """The reasons against the value alone."""
    match type_:
        case "decimal":
            found = _decimal_problems(value)
        case "text":
            found = _text_problems(value)
        case "time":
            found = _time_problems(*value)
        case "json":
            found = _json_problems(value)
        case _:
            found = set()
    if found:
        return found
    if attribute in _BOUNDED.values():
        is_nan = isinstance(value, float) and math.isnan(value)
        if is_nan or not LOWEST <= Decimal(value) <= HIGHEST:
            return {"VALUE_OUT_OF_RANGE"}
    if attribute == CHOICE and value not in ALLOWED:
        return {"VALUE_NOT_ALLOWED"}
    if attribute == SERIAL and not re.fullmatch(PATTERN, value):
        return {"REGEX_MISMATCH"}
    return set()


def canonical(type_: str, value: Any) -> Any:
    """The value as something that compares equal to what is read back, see `read_back`."""
    match type_:
        case "double":
            return repr(value)  # Tells -0.0 from 0.0, and NaN is equal to itself.
        case "decimal":
            return Decimal(value)
        case "time":
            seconds, nanos = value
            return seconds * 1_000_000 + nanos // 1_000
        case "json":
            return _json_value(value)
        case _:
            return value


def read_back(type_: str, text: str) -> Any:
    """A stored value from its text in the database; a TIME's is in microseconds."""
    readers: dict[str, Callable[[str], Any]] = {
        "bool": {"true": True, "false": False}.__getitem__,
        "int": int,
        "double": lambda number: repr(float(number)),
        "decimal": Decimal,
        "time": int,
        "json": _json_value,
    }
    return readers.get(type_, str)(text)


def _size(text: str) -> int:
    return len(text.encode())


def _has_control(text: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in text)


def _key_problems(key: str) -> set[str]:
    bad = not 0 < _size(key) <= 256 or _has_control(key)
    return {"ENTITY_KEY_INVALID"} if bad else set()


def _text_problems(text: str) -> set[str]:
    found = {"TEXT_HAS_NUL"} if "\0" in text else set()
    return found | ({"VALUE_OUT_OF_RANGE"} if _size(text) > TEXT_BYTES_MAX else set())


def _time_problems(seconds: int, nanos: int) -> set[str]:
    found = set() if 0 <= nanos < 1_000_000_000 else {"INVALID_FIELD"}
    if not TIME_SECONDS[0] <= seconds <= TIME_SECONDS[1]:
        found.add("VALUE_OUT_OF_RANGE")
    return found


def _decimal_problems(text: str) -> set[str]:
    if text.lstrip("+-").lower().startswith(("nan", "snan", "inf")):
        return {"VALUE_NOT_FINITE", "DECIMAL_INVALID"}  # "information" is no infinity.
    if len(text) > 64 or set(text) - set("0123456789+-.eE"):
        return {"DECIMAL_INVALID"}
    try:
        sign_digits_exponent = Decimal(text).as_tuple()
    except InvalidOperation:
        return {"DECIMAL_INVALID"}
    _, digits, exponent = sign_digits_exponent
    assert isinstance(exponent, int)
    written = "".join(map(str, digits)).lstrip("0")
    significant = written.rstrip("0")
    exponent += len(written) - len(significant)
    if not significant:
        return set()
    fits = len(significant) + exponent <= 20 and -exponent <= 18
    return set() if fits else {"DECIMAL_INVALID"}


class _NotFiniteError(ValueError):
    pass


def _not_finite(_: str) -> Any:
    raise _NotFiniteError


def _json_problems(text: str) -> set[str]:
    found = {"VALUE_OUT_OF_RANGE"} if _size(text) > TEXT_BYTES_MAX else set()
    numbers: list[str] = []

    def number(written: str) -> str:
        numbers.append(written)
        return "number"

    try:
        document = json.loads(
            text, parse_int=number, parse_float=number, parse_constant=_not_finite
        )
    except _NotFiniteError:
        return found | {"VALUE_NOT_FINITE", "JSON_INVALID", *_number_problems(numbers)}
    except RecursionError:
        return found | {"JSON_INVALID"}
    except ValueError:
        # What came before the mistake may be told first.
        return found | {"JSON_INVALID", *_number_problems(numbers)}
    found |= set(_number_problems(numbers))
    if _depth(document) > JSON_DEPTH_MAX:
        found.add("JSON_INVALID")
    for piece in _texts(json.loads(text, object_pairs_hook=list, parse_int=str, parse_float=str)):
        if "\0" in piece:
            found.add("TEXT_HAS_NUL")
        if any("\ud800" <= character <= "\udfff" for character in piece):
            found.add("JSON_INVALID")
    return found


def _number_problems(numbers: list[str]) -> set[str]:
    exponents = 0
    for written in numbers:
        mantissa, _, exponent = written.lower().partition("e")
        digits = sum(character.isdigit() for character in mantissa)
        size = abs(int(exponent[:12] or 0))
        exponents += size
        if digits > JSON_NUMBER_MAX or size > JSON_NUMBER_MAX or len(exponent) > 8:
            return {"VALUE_OUT_OF_RANGE"}
    return {"VALUE_OUT_OF_RANGE"} if exponents > TEXT_BYTES_MAX else set()


def _depth(document: Any) -> int:
    deepest, level = 0, [document]
    while level := [node for node in level if isinstance(node, dict | list)]:
        deepest += 1
        level = [
            inner for node in level for inner in (node.values() if isinstance(node, dict) else node)
        ]
    return deepest


def _texts(document: Any) -> list[str]:
    """All texts, of keys too, and of those of doubled keys."""
    found, waiting = [], [document]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            found.append(node)
        elif isinstance(node, list | tuple):
            waiting.extend(node)
    return found


def _json_value(text: str) -> Any:
    """Compared by content: numbers by value, the last of doubled keys, True unlike 1."""
    number = Decimal
    document = json.loads(text, parse_int=number, parse_float=number)
    return _tagged(document)


def _tagged(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _tagged(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_tagged(value) for value in node]
    return (type(node).__name__, node)


# Strategies ------------------------------------------------------------------------------------

_CHARACTERS = st.characters(exclude_categories=["Cs"])
_NASTY_TEXTS = st.sampled_from(
    [
        "",
        "\0",
        "a\0b",
        " ",
        "\n",
        "\\N",
        "\\x00",
        "NULL",
        "'; DROP TABLE tenants; --",
        "\u0001\u001f\u007f\u009f",
        "e\u0301",
        "\u00e9",
        "\u202etxet",
        "\ufeffbom",
        "\uffff\U0010ffff",
        "\U0001f469\u200d\U0001f680",
        "a" * TEXT_BYTES_MAX,
        "a" * (TEXT_BYTES_MAX + 1),
        "é" * (TEXT_BYTES_MAX // 2),
        "\U0001f600" * (TEXT_BYTES_MAX // 4) + "a",
        "a" * 50_000 + "b",
    ]
)
texts = st.one_of(_NASTY_TEXTS, st.text(_CHARACTERS, max_size=40))
bools = st.booleans()
ints = st.one_of(
    st.sampled_from([0, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), -12, -13, 1_000, 1_001]),
    st.integers(-(2**63), 2**63 - 1),
)
doubles = st.one_of(
    st.sampled_from(
        [
            0.0,
            -0.0,
            5e-324,
            -2.2250738585072014e-308,
            1.7976931348623157e308,
            math.nan,
            math.inf,
            -math.inf,
            0.1,
            -12.5,
            math.nextafter(-12.5, -math.inf),
            1e3,
            math.nextafter(1e3, math.inf),
        ]
    ),
    st.floats(),
)
_plain_decimals = st.decimals(allow_nan=False, allow_infinity=False, places=18).map(str)
decimals = st.one_of(
    st.sampled_from(
        [
            *("0", "-0", "+0.0", "0e400", "1e400", "-1e-400", "1e19", "1e20", "1e-18", "1e-19"),
            *("9" * 20 + "." + "9" * 18, "9" * 21, "0." + "9" * 19, "0" * 63 + "1", "0" * 65),
            *("NaN", "-nan", "sNaN1", "Infinity", "-inf", "information", "", " ", ".", "-", "+-1"),
            *("1_000", "1,5", "0x10", "１２", "١", "1e", "e5", "1e5.5", "1 ", " 1", "1\n", "1\0"),
            *(".5", "5.", "+5", "1E+3", "1e-3", "-12.5", "-12.500000000000000001", "1000.0"),
            *("1e999999999", "1e9999999999", "123456789012345678901234567890.1e-10"),
        ]
    ),
    _plain_decimals,
    st.integers(-(10**38), 10**38).map(str),
    st.builds("{}e{}".format, st.integers(-(10**6), 10**6), st.integers(-30, 30)),
    st.text("0123456789+-.eEx ", max_size=12),
)
times = st.one_of(
    st.sampled_from(
        [
            (TIME_SECONDS[0], 0),
            (TIME_SECONDS[0] - 1, 999_999_999),
            (TIME_SECONDS[1], 999_999_999),
            (TIME_SECONDS[1] + 1, 0),
            (-(2**63), 0),
            (2**63 - 1, 999_999_999),
            (0, -1),
            (0, 1_000_000_000),
            (-1, 999),
            (946_684_800, 0),
            (0, -(2**31)),
        ]
    ),
    st.tuples(st.integers(*TIME_SECONDS), st.integers(0, 999_999_999)),
)
_json_scalars = st.one_of(
    st.sampled_from(["null", "true", "false", "0", "-0", "-0.0", "1e400", "-1e-400", "1E+5"]),
    st.sampled_from(["1e401", "1e131071", "9" * 400, "9" * 401, "0." + "0" * 398 + "1"]),
    st.sampled_from(
        ['"\\u0000"', '"\\ud800"', '"\\ud83d\\ude00"', '"\\udc00\\ud800"', '"\\"\\\\"']
    ),
    st.sampled_from(["NaN", "-Infinity", "01", "+1", "1.", ".5", "nul", "'a'", '"\t"', '"', ""]),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.text(_CHARACTERS, max_size=8).map(json.dumps),
    st.text(_CHARACTERS, max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False)),
)
_json_keys = st.sampled_from(['"a"', '"b"', '""', '"\\u0061"', '"é"', '"\\u0000"'])
_json_trees: st.SearchStrategy[str] = st.recursive(
    _json_scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda parts: "[" + ", ".join(parts) + "]"),
        st.lists(st.tuples(_json_keys, inner), max_size=4).map(  # Keys come twice, too.
            lambda pairs: "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=8,
)
jsons = st.one_of(
    _json_trees,
    st.sampled_from(
        [
            "[" * JSON_DEPTH_MAX + "]" * JSON_DEPTH_MAX,
            "[" * (JSON_DEPTH_MAX + 1) + "]" * (JSON_DEPTH_MAX + 1),
            '{"a":' * JSON_DEPTH_MAX + "1" + "}" * JSON_DEPTH_MAX,
            "[" * 30_000,
            "[" * 30_000 + "]" * 30_000,
            "[" + ",".join(["1e400"] * 163) + "]",
            "[" + ",".join(["1e400"] * 164) + "]",
            "[" + ",".join("1" * 32_000) + "]",
            "{" + ",".join(f'"k{n}":{n}' for n in range(5_000)) + "}",
            '"' + "x" * (TEXT_BYTES_MAX - 2) + '"',
            '"' + "x" * (TEXT_BYTES_MAX - 1) + '"',
            "\ufeff1",
            "1 2",
            " \n[1]\t",
        ]
    ),
)
VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "bool": bools,
    "int": ints,
    "double": doubles,
    "decimal": decimals,
    "text": texts,
    "time": times,
    "json": jsons,
}

good_keys = st.one_of(
    st.sampled_from(["pump", "PUMP", "e\u0301", "\u00e9", " ", "x" * 256, "é" * 128, "a\u2028b"]),
    st.text(_CHARACTERS, min_size=1, max_size=10).filter(lambda key: not _key_problems(key)),
)
bad_keys = st.sampled_from(["", "x" * 257, "é" * 129, "a\0", "\n", "\x7f", "a\x85"])
bad_attributes = st.sampled_from(["", "x" * 129, "a\0b", "no-such", "HOT-INT", "hot-int "])
far_times = st.sampled_from([-(2**63), 2**63 - 1, -(2**60), 4_102_444_800_000_000])


@st.composite
def serials(draw: st.DrawFn) -> str:
    """Texts on both sides of the pattern."""
    return draw(st.sampled_from(["AB1", "AB", "ab1", "AB1\n", "XY" + "1" * 60_000, "A" * 50_000]))


@st.composite
def points(draw: st.DrawFn) -> HostilePoint:
    """As a rule one thing is wrong at most, now and then several."""
    attribute = draw(st.sampled_from(sorted(ATTRIBUTE_TYPES)))
    type_: Any = ATTRIBUTE_TYPES[attribute]
    rarely = st.integers(0, 19).map(lambda n: n == 19)
    if draw(rarely):
        type_ = draw(st.sampled_from([*TYPES, None]))
    value: Any
    if attribute == SERIAL and type_ == "text":
        value = draw(st.one_of(serials(), texts))
    elif attribute == CHOICE and type_ == "text":
        value = draw(st.one_of(st.sampled_from(ALLOWED), texts))
    else:
        value = draw(VALUES[type_]) if type_ is not None else None
    return HostilePoint(
        key=draw(bad_keys if draw(rarely) else good_keys),
        attribute=draw(bad_attributes) if draw(rarely) else attribute,
        type_=type_,
        value=value,
        quality=draw(st.sampled_from([256, 2**32 - 1])) if draw(rarely) else draw(_qualities),
        far_us=draw(far_times) if draw(rarely) else None,
    )


_qualities = st.one_of(st.sampled_from([0, 255]), st.integers(0, 255))
batches = st.lists(points(), min_size=1, max_size=25)
