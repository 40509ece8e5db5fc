"""Points with all that can be wrong with them, and what two ways to read them have to agree on."""

from datetime import UTC
from typing import Any

from hypothesis import strategies as st

from atlas_ingest.columns import Checked, Columns

from .arrow_streams import NOW_US, RULES, WINDOW

# One character of each kind: control characters, NUL, wide ones, what JSON and numbers are made of.
TEXTS = st.one_of(
    st.text(max_size=12),
    st.text('\x00\x1f\x7f\x9fü𝄞 a1.-eE+[]{}"\\,:', max_size=24),
    st.sampled_from(["x" * 65_536, "x" * 65_537, "ü" * 32_769, "running", "stopped", "AB1", "aaa"]),
)
DECIMALS = st.one_of(
    st.sampled_from(["1e20", "1e19", "-1e-18", "1e-19", "1e999999999", "NaN", "-inf", "+5", ".5"]),
    st.sampled_from(["5.", "-0", "12.50", "1_0", "٣", "-1.005", "-1.0049", "0.01", "0.0099"]),
    st.sampled_from(["10000", "99990000", "0.00010000", "1e4", "1" + "0" * 19, "0" * 64, "0" * 65]),
    st.just("9" * 20 + "." + "9" * 18),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.from_regex(r"-?[0-9]{0,22}(\.[0-9]{0,20})?", fullmatch=True),
    TEXTS,
)
# No text among them that has to be asked: such columns are parsed as a whole.
PLAIN_DECIMALS = st.one_of(
    st.from_regex(r"-?[0-9]{1,8}(\.[0-9]{1,5})?", fullmatch=True),
    st.from_regex(r"-?[0-9]{0,20}\.?[0-9]{0,19}", fullmatch=True).filter(
        lambda text: len(text) <= 20 and any(map(str.isdigit, text))
    ),
    st.from_regex(r"-?[0-9]{18,20}\.[0-9]{16,18}", fullmatch=True),
)
# Almost so: of some of these pyarrow makes other numbers.
UNPLAIN_DECIMALS = st.one_of(
    st.from_regex(r"-?[0-9]{19,24}(\.[0-9]{1,3})?", fullmatch=True),
    st.from_regex(r"[0-9]{1,3}e[0-9]{1,2}", fullmatch=True),
    st.text("-+./019e", min_size=1, max_size=5),
)
JSON = st.one_of(
    st.sampled_from(
        ['{"a": 1}', "[1e400]", "[1e401]", '"\\u0000"', '"\\ud800"', "NaN", "nul", "null"]
    ),
    st.just("[" * 65 + "]" * 65),
    TEXTS,
)
TIMES = st.datetimes(timezones=st.just(UTC))
INTS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-1, 11))
DOUBLES = st.one_of(
    st.floats(), st.sampled_from([0.1, 0.09999999999999999, -0.0, 100.0, 100.00000000000001])
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool_value": st.booleans(),
    "int_value": INTS,
    "double_value": DOUBLES,
    "decimal_value": DECIMALS,
    "text_value": TEXTS,
    "time_value": TIMES,
    "json_value": JSON,
}
KEYS = st.one_of(
    st.sampled_from(["pump-1", "pump-2", "ü" * 128, "ü" * 129, "", "a\x85"]),
    st.none(),
    st.text(max_size=3),
)
ATTRIBUTES = st.one_of(
    st.sampled_from([*RULES, "new", "new 2", "", "a\nb", "x" * 129]), st.none(), st.text(max_size=2)
)
EVENT_TIMES = st.one_of(
    st.integers(-5_000_000, 500_000).map(lambda offset: NOW_US + offset),
    st.sampled_from([WINDOW.oldest_us, WINDOW.oldest_us - 1, WINDOW.newest_us + 1, -(2**63)]),
    st.none(),
)


def same(one: Columns, other: Columns, registers: bool) -> None:
    """Fail unless both name, refuse and store the same, to the byte."""
    assert one.attribute_names() == other.attribute_names()
    brought = one.new_attributes(RULES)
    # In the same order: so they are registered, as far as there is room.
    assert list(brought.items()) == list(other.new_attributes(RULES).items())
    rules = {**RULES, **brought} if registers else RULES
    of_one, of_other = one.check(rules, WINDOW), other.check(rules, WINDOW)
    assert of_one.rejections == of_other.rejections
    assert of_one.accepted_count == of_other.accepted_count
    assert of_one.entity_keys() == of_other.entity_keys()
    assert of_one.attribute_names() == of_other.attribute_names()
    for index in range(len(one)):
        assert of_one.names_of(index) == of_other.names_of(index)
    assert encoded(of_one) == encoded(of_other)


def encoded(checked: Checked) -> bytes:
    entity_ids = {key: number for number, key in enumerate(sorted(checked.entity_keys()), 1)}
    names = sorted(checked.attribute_names())
    return checked.rows(7, 3, entity_ids, {name: number for number, name in enumerate(names, 1)})
