"""Each way in which a point can be bad, one by one, beside a good one."""

import math
from decimal import Decimal
from typing import Any

import pytest

from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType
from atlas_ingest.columns import Window
from atlas_ingest.points import PointColumns
from atlas_ingest.rules import rule_of
from atlas_ingest.validate import new_attributes, validate

NOW_US = 1_800_000_000_000_000
WINDOW = Window(NOW_US - 10_000_000, NOW_US + 1_000_000)


def attribute(name: str, data_type: DataType, **rules: Any) -> AttributeDef:
    return AttributeDef(len(name), name, data_type, is_hot=False, **rules)


DEFINITIONS = [
    attribute("bool", DataType.BOOL),
    attribute("int", DataType.INT),
    attribute("double", DataType.DOUBLE),
    attribute("decimal", DataType.DECIMAL),
    attribute("text", DataType.TEXT),
    attribute("time", DataType.TIME),
    attribute("json", DataType.JSON),
    attribute("percent", DataType.DOUBLE, min_value=Decimal(0), max_value=Decimal(100)),
    attribute("rpm", DataType.INT, min_value=Decimal("0.5"), max_value=Decimal("9.5")),
    attribute("price", DataType.DECIMAL, min_value=Decimal("0.01")),
    attribute("state", DataType.TEXT, allowed_values=("running", "stopped")),
    attribute("serial", DataType.TEXT, validation_regex="[A-Z]{2}[0-9]+"),
    attribute("evil", DataType.TEXT, validation_regex="(a+)+$"),
]
RULES = {definition.name: rule_of(definition) for definition in DEFINITIONS}


def columns(*points: dict[str, Any]) -> PointColumns:
    result = PointColumns([], [], [], [], [], [])
    for point in points:
        result.entity_keys.append(point.get("key", "pump-1"))
        result.attributes.append(point["attribute"])
        result.event_times_us.append(point.get("at", NOW_US))
        result.qualities.append(point.get("quality", 0))
        result.types.append(point["type"])
        result.values.append(point.get("value"))
    return result


GOOD = {"attribute": "double", "type": DataType.DOUBLE, "value": 1.0}


@pytest.mark.parametrize(
    ("point", "reason", "field"),
    [
        ({**GOOD, "key": ""}, "ENTITY_KEY_INVALID", "entity_key"),
        ({**GOOD, "key": "x" * 257}, "ENTITY_KEY_INVALID", "entity_key"),
        ({**GOOD, "key": "ü" * 129}, "ENTITY_KEY_INVALID", "entity_key"),
        ({**GOOD, "key": "a\x00"}, "ENTITY_KEY_INVALID", "entity_key"),
        ({**GOOD, "key": "a\x7f"}, "ENTITY_KEY_INVALID", "entity_key"),
        ({**GOOD, "key": "a\x85"}, "ENTITY_KEY_INVALID", "entity_key"),
        ({**GOOD, "attribute": ""}, "INVALID_FIELD", "attribute"),
        ({**GOOD, "attribute": "x" * 129}, "INVALID_FIELD", "attribute"),
        ({**GOOD, "attribute": "a\nb"}, "INVALID_FIELD", "attribute"),
        ({**GOOD, "attribute": "nope"}, "ATTRIBUTE_UNKNOWN", "attribute"),
        ({"attribute": "double", "type": None}, "VALUE_MISSING", "value"),
        ({"attribute": "nope", "type": None}, "VALUE_MISSING", "value"),
        ({**GOOD, "type": DataType.INT}, "TYPE_MISMATCH", "int_value"),
        ({**GOOD, "at": WINDOW.oldest_us - 1}, "EVENT_TIME_OUT_OF_WINDOW", "event_time_us"),
        ({**GOOD, "at": WINDOW.newest_us + 1}, "EVENT_TIME_OUT_OF_WINDOW", "event_time_us"),
        ({**GOOD, "at": -(2**63)}, "EVENT_TIME_OUT_OF_WINDOW", "event_time_us"),
        ({**GOOD, "quality": 256}, "INVALID_FIELD", "quality"),
    ],
)
def test_a_bad_point_is_refused_alone(point: dict[str, Any], reason: str, field: str) -> None:
    result = validate(columns(GOOD, point, GOOD), RULES, WINDOW)
    (error,) = result.rejections.errors
    assert (error.index, error.reason, error.field) == (1, reason, field)
    assert field in error.message or field == "value"
    assert result.accepted[DataType.DOUBLE] == [0, 2]
    assert result.accepted_count == 2


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("percent", 100.00000000000001, "VALUE_OUT_OF_RANGE"),
        ("percent", -5e-324, "VALUE_OUT_OF_RANGE"),
        ("percent", math.nan, "VALUE_OUT_OF_RANGE"),
        ("percent", math.inf, "VALUE_OUT_OF_RANGE"),
        ("rpm", 0, "VALUE_OUT_OF_RANGE"),
        ("rpm", 10, "VALUE_OUT_OF_RANGE"),
        ("price", "0.009", "VALUE_OUT_OF_RANGE"),
        ("decimal", "NaN", "VALUE_NOT_FINITE"),
        ("decimal", "-Infinity", "VALUE_NOT_FINITE"),
        ("decimal", "12,5", "DECIMAL_INVALID"),
        ("decimal", "", "DECIMAL_INVALID"),
        ("decimal", "1" * 21, "DECIMAL_INVALID"),
        ("decimal", "1e20", "DECIMAL_INVALID"),
        ("decimal", "1e999999", "DECIMAL_INVALID"),
        ("decimal", "1e-19", "DECIMAL_INVALID"),
        ("decimal", "0" * 65, "DECIMAL_INVALID"),
        ("text", "a\0b", "TEXT_HAS_NUL"),
        ("text", "ü" * 32_769, "VALUE_OUT_OF_RANGE"),
        ("state", "runing", "VALUE_NOT_ALLOWED"),
        ("serial", "x", "REGEX_MISMATCH"),
        ("serial", "AB12 ", "REGEX_MISMATCH"),
        ("serial", "AB12\n", "REGEX_MISMATCH"),
        ("evil", "a" * 50_000 + "!", "REGEX_MISMATCH"),
        ("time", (0, -1), "INVALID_FIELD"),
        ("time", (0, 1_000_000_000), "INVALID_FIELD"),
        ("time", (253_402_300_800, 0), "VALUE_OUT_OF_RANGE"),
        ("time", (-(2**63), 0), "VALUE_OUT_OF_RANGE"),
        ("json", "{", "JSON_INVALID"),
        ("json", '"' + "x" * 65_536 + '"', "VALUE_OUT_OF_RANGE"),
    ],
)
def test_a_bad_value_is_named_and_the_text_stays_short(name: str, value: Any, reason: str) -> None:
    data_type = RULES[name].data_type
    point = {"attribute": name, "type": data_type, "value": value}
    result = validate(columns(point, GOOD), RULES, WINDOW)
    (error,) = result.rejections.errors
    assert (error.index, error.reason, error.field) == (0, reason, f"{data_type}_value")
    assert len(error.message) < 300
    assert error.message.isprintable()
    assert result.accepted_count == 1


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("bool", False, False),
        ("int", -(2**63), -(2**63)),
        ("double", math.inf, math.inf),
        ("percent", 100.0, 100.0),
        ("percent", -0.0, -0.0),
        ("rpm", 1, 1),
        ("rpm", 9, 9),
        ("decimal", "99999999999999999999.999999999999999999", Decimal("9" * 20 + "." + "9" * 18)),
        ("decimal", "-1e-18", Decimal("-1e-18")),
        ("decimal", "12.50000000000000000000", Decimal("12.5")),
        ("price", "0.01", Decimal("0.01")),
        ("text", "", ""),
        ("text", "x" * 65_536, "x" * 65_536),
        ("text", "\x01\u2028", "\x01\u2028"),
        ("state", "stopped", "stopped"),
        ("serial", "AB12", "AB12"),
        ("time", (-1, 999_999_999), -1),
        ("time", (253_402_300_799, 999_999_999), 253_402_300_799_999_999),
        ("json", " [1] ", " [1] "),
    ],
)
def test_a_good_value_is_stored_as_it_is(name: str, value: Any, stored: Any) -> None:
    data_type = RULES[name].data_type
    point = {"attribute": name, "type": data_type, "value": value}
    result = validate(columns(point), RULES, WINDOW)
    assert result.rejections.errors == []
    assert result.values == [stored]


def test_nan_is_a_double_like_any_other() -> None:
    result = validate(columns({**GOOD, "value": math.nan}), RULES, WINDOW)
    assert result.accepted_count == 1


def test_the_first_hundred_errors_are_told_and_all_are_counted() -> None:
    result = validate(columns(*[{**GOOD, "key": ""}] * 250, GOOD), RULES, WINDOW)
    assert result.rejections.count == 250
    assert [error.index for error in result.rejections.errors] == list(range(100))
    assert result.accepted[DataType.DOUBLE] == [250]


def test_the_first_value_types_a_new_attribute() -> None:
    batch = columns(
        {"attribute": "new", "type": None},
        {"attribute": "new", "type": DataType.INT, "value": 1},
        {"attribute": "new", "type": DataType.TEXT, "value": "x"},
        {"attribute": "a\nb", "type": DataType.TEXT, "value": "x"},
        GOOD,
    )
    brought = new_attributes(batch, RULES)
    assert {name: rule.data_type for name, rule in brought.items()} == {"new": DataType.INT}
    result = validate(batch, {**RULES, **brought}, WINDOW)
    assert [(error.index, error.reason) for error in result.rejections.errors] == [
        (0, "VALUE_MISSING"),
        (2, "TYPE_MISMATCH"),
        (3, "INVALID_FIELD"),
    ]
