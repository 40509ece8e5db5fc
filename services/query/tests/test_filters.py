"""A filter becomes what the projection must contain; what is wrong with it is named."""

import json
from decimal import Decimal
from typing import Any

import pytest

from atlas_common.catalog import AttributeDef
from atlas_common.errors import ServiceError
from atlas_common.values import DataType, Scalar
from atlas_query.filters import Condition, Match, compile_filter

ATTRIBUTES = {
    name: AttributeDef(number, name, data_type, is_hot)
    for number, name, data_type, is_hot in (
        (1, "on", DataType.BOOL, True),
        (2, "rpm", DataType.INT, True),
        (3, "pressure", DataType.DOUBLE, True),
        (4, "price", DataType.DECIMAL, True),
        (5, "state", DataType.TEXT, True),
        (6, "since", DataType.TIME, True),
        (7, "config", DataType.JSON, True),
        (8, "serial", DataType.TEXT, False),
    )
}


def compiled(*conditions: tuple[str, Scalar]) -> Match:
    return compile_filter(
        [
            Condition(name, ATTRIBUTES[name].data_type, value, f"filter.{index}")
            for index, (name, value) in enumerate(conditions)
        ],
        ATTRIBUTES,
    )


def refusal(*conditions: Condition) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        compile_filter(conditions, ATTRIBUTES)
    return raised.value


@pytest.mark.parametrize(
    ("name", "value", "contained"),
    [
        ("on", True, True),
        ("rpm", -(2**63), -(2**63)),
        ("pressure", 0.1, 0.1),
        ("pressure", float("nan"), "NaN"),
        ("pressure", float("-inf"), "-Infinity"),
        ("price", Decimal("12.50"), 12.5),
        ("price", Decimal("1E+3"), 1000),
        ("state", 'a "b" é \\', 'a "b" é \\'),
        ("since", 1_700_000_000_000_001, 1_700_000_000_000_001),
    ],
)
def test_values_are_as_the_projection_holds_them(name: str, value: Scalar, contained: Any) -> None:
    match = compiled((name, value))
    assert json.loads(match.containment) == {str(ATTRIBUTES[name].attribute_id): contained}
    assert (match.exact, match.is_impossible) == ("{}", False)


def test_conditions_are_one_containment() -> None:
    match = compiled(("on", False), ("rpm", 5), ("rpm", 5))
    assert json.loads(match.containment) == {"1": False, "2": 5}
    assert not match.is_impossible


def test_two_values_at_once_match_nothing_but_two_forms_of_one_do() -> None:
    assert compiled(("rpm", 5), ("rpm", 6)).is_impossible
    assert not compiled(("price", Decimal("1.50")), ("price", Decimal("1.5"))).is_impossible


def test_a_document_must_be_equal_not_only_contained() -> None:
    match = compiled(("config", '{"a": [1]}'))
    assert json.loads(match.exact) == json.loads(match.containment) == {"7": {"a": [1]}}


def test_no_conditions_match_all() -> None:
    assert compiled() == Match("{}", "{}", False)


def test_what_is_wrong_is_named() -> None:
    cold = refusal(Condition("serial", DataType.TEXT, "x", "filter.equals"))
    assert (cold.reason, cold.metadata["attribute"]) == ("ATTRIBUTE_NOT_HOT", "serial")
    assert (cold.field, "GetHistory" in cold.message) == ("filter.equals.attribute", True)
    typed = refusal(Condition("rpm", DataType.TEXT, "12", "filter.equals"))
    assert (typed.reason, typed.field) == ("TYPE_MISMATCH", "filter.equals.value")
    assert typed.message == "attribute 'rpm' is INT, the value is TEXT"
    unknown = refusal(Condition("rmp", DataType.INT, 1, "filter.equals"))
    assert (unknown.reason, unknown.metadata["attribute"]) == ("ATTRIBUTE_UNKNOWN", "rmp")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("state", "a\0b", "TEXT_HAS_NUL"),
        ("config", "{", "JSON_INVALID"),
        ("config", "NaN", "JSON_INVALID"),
        ("config", "[" * 100_000, "JSON_INVALID"),
        ("config", '1}, "9": {"x": 1', "JSON_INVALID"),
        ("price", Decimal("NaN"), "VALUE_NOT_FINITE"),
        ("price", Decimal("1E+999999"), "DECIMAL_INVALID"),
        ("price", Decimal("1E-19"), "DECIMAL_INVALID"),
        ("price", Decimal("1E+99999999"), "DECIMAL_INVALID"),
        ("price", Decimal("1E-99999999"), "DECIMAL_INVALID"),
    ],
)
def test_values_that_no_point_can_have_are_refused(name: str, value: Scalar, reason: str) -> None:
    condition = Condition(name, ATTRIBUTES[name].data_type, value, "filter.equals")
    assert refusal(condition).reason == reason


def test_a_decimal_keeps_all_its_digits() -> None:
    match = compiled(("price", Decimal("12345678901234567890.123456789012345678000")))
    assert "12345678901234567890.123456789012345678}" in match.containment
