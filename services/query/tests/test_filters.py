"""A filter becomes jsonpaths over the projection; what is wrong with it is named."""

import json
from decimal import Decimal
from math import inf, nan
from typing import Any

import pytest

from atlas_common.catalog import AttributeDef
from atlas_common.errors import ServiceError
from atlas_common.values import DataType, Scalar
from atlas_query.filters import (
    AllOf,
    AnyOf,
    Bound,
    Equals,
    Exists,
    Filter,
    Match,
    Not,
    Operand,
    Range,
    attribute_names,
    check_filter,
    compile_filter,
)
from atlas_query.filters.tree import EVERY_ENTITY

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


def operand(name: str, value: Scalar, field: str = "filter.equals.value") -> Operand:
    return Operand(ATTRIBUTES[name].data_type, value, field)


def equals(name: str, *values: Scalar) -> Equals:
    return Equals(name, tuple(operand(name, value) for value in values), "filter.equals")


def between(name: str, low: Scalar | None, high: Scalar | None, ends: str = "[]") -> Range:
    """`ends` as mathematics writes them: "[" and "]" belong to the range, "(" and ")" do not."""
    return Range(
        name,
        None if low is None else Bound(operand(name, low, "filter.range.min"), ends[0] == "["),
        None if high is None else Bound(operand(name, high, "filter.range.max"), ends[1] == "]"),
        "filter.range",
    )


def compiled(tree: Filter) -> Match:
    check_filter(tree, ATTRIBUTES)
    return compile_filter(tree, ATTRIBUTES)


def refusal(tree: Filter) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        compiled(tree)
    return raised.value


A, B, C = equals("on", True), equals("rpm", 5), equals("state", "x")
ON, RPM, STATE = (
    'exists($."1" ? (@ == true))',
    'exists($."2" ? (@ == 5))',
    'exists($."5" ? (@ == "x"))',
)


@pytest.mark.parametrize(
    ("name", "value", "literal"),
    [
        ("on", True, "true"),
        ("rpm", -(2**63), "-9223372036854775808"),
        ("pressure", 0.1, "0.1"),
        ("pressure", -0.0, "0.0"),
        ("pressure", 1e300, "1e+300"),
        ("pressure", nan, '"NaN"'),
        ("pressure", -inf, '"-Infinity"'),
        ("price", Decimal("12.50"), "12.5"),
        ("price", Decimal("1E+3"), "1000"),
        ("price", Decimal("-0.0"), "0"),
        ("price", Decimal("12345678901234567890.123456789012345678000"),
         "12345678901234567890.123456789012345678"),
        ("state", 'a "b" é \\', '"a \\"b\\" \\u00e9 \\\\"'),
        ("since", 1_700_000_000_000_001, "1700000000000001"),
    ],
)  # fmt: skip
def test_literals_are_as_the_projection_holds_values(
    name: str, value: Scalar, literal: str
) -> None:
    condition = f'exists($."{ATTRIBUTES[name].attribute_id}" ? (@ == {literal}))'
    assert compiled(equals(name, value)) == Match(None, condition, None, matches_empty=False)


def test_a_text_cannot_leave_its_literal() -> None:
    condition = compiled(equals("state", '") || true || (@ == "')).narrowing
    assert condition == r'exists($."5" ? (@ == "\") || true || (@ == \""))'


def test_no_filter_matches_every_entity_and_its_negation_none() -> None:
    assert compiled(EVERY_ENTITY) == Match(None, None, None, matches_empty=True)
    assert compiled(AnyOf((A, EVERY_ENTITY))) == Match(None, None, None, matches_empty=True)
    nothing = compiled(Not(EVERY_ENTITY))
    assert (nothing.condition, nothing.narrowing) == (None, 'exists($."" ? (@ == 0))')
    assert not nothing.matches_empty


@pytest.mark.parametrize(
    ("tree", "condition", "narrowing"),
    [
        (AllOf((A, B)), f"({ON} && {RPM})", f"({ON} && {RPM})"),
        (AnyOf((A, B)), f"({ON} || {RPM})", f"({ON} || {RPM})"),
        (equals("rpm", 5, 6, 5), 'exists($."2" ? (@ == 5 || @ == 6))',
         'exists($."2" ? (@ == 5 || @ == 6))'),
        (AllOf((A, Exists("rpm", ""))), f'({ON} && exists($."2"))', ON),
        (AnyOf((A, Exists("rpm", ""))), f'({ON} || exists($."2"))', None),
        (Not(A), f"!({ON})", None),
        (Not(Not(A)), ON, ON),
        (AllOf((A, Not(B))), f"({ON} && !({RPM}))", ON),
        (Not(AnyOf((Not(A), B))), f"({ON} && !({RPM}))", ON),
        (Not(AllOf((Not(A), Not(B)))), f"({ON} || {RPM})", f"({ON} || {RPM})"),
        (AllOf((AnyOf((A, B)), AnyOf((C, Not(A))))),
         f"(({ON} || {RPM}) && ({STATE} || !({ON})))", f"({ON} || {RPM})"),
    ],
)  # fmt: skip
def test_what_can_be_looked_up_is(tree: Filter, condition: str, narrowing: str | None) -> None:
    match = compiled(tree)
    assert (match.condition or match.narrowing, match.narrowing) == (condition, narrowing)
    assert (match.condition is None) is (condition == narrowing)


@pytest.mark.parametrize(
    ("tree", "matches"),
    [
        (A, False),
        (Not(A), True),
        (Exists("rpm", ""), False),
        (Not(Exists("rpm", "")), True),
        (Not(between("rpm", 1, None)), True),
        (AllOf((A, Not(B))), False),
        (AnyOf((A, Not(B))), True),
        (Not(AnyOf((A, Not(B)))), False),
        (Not(AllOf((A, B))), True),
    ],
)
def test_an_entity_without_values_matches_what_asks_for_none(tree: Filter, matches: bool) -> None:
    assert compiled(tree).matches_empty is matches


INFINITY, MINUS = '(@ == "Infinity")', '(@ == "-Infinity")'


@pytest.mark.parametrize(
    ("tree", "predicate"),
    [
        (between("rpm", 1, 5), "@ >= 1 && @ <= 5"),
        (between("rpm", 1, 5, "()"), "@ > 1 && @ < 5"),
        (between("price", None, Decimal("1.50")), "@ <= 1.5"),
        (between("state", "a", None, "(]"), '@ > "a"'),
        (between("pressure", 1.0, 2.0), "(@ >= 1.0 && @ <= 2.0)"),
        (between("pressure", 1.0, None), f"(@ >= 1.0) || {INFINITY}"),
        (between("pressure", None, 1.0), f"(@ <= 1.0) || {MINUS}"),
        (between("pressure", -inf, inf), f'(@.type() == "number") || {INFINITY} || {MINUS}'),
        (between("pressure", -inf, None, "(]"), f'(@.type() == "number") || {INFINITY}'),
        (between("pressure", inf, None), INFINITY),
        (between("pressure", None, -inf), MINUS),
        (between("pressure", inf, None, "(]"), "1 == 0"),
        (between("pressure", 1.0, inf, "[)"), "(@ >= 1.0)"),
    ],
)
def test_ranges(tree: Range, predicate: str) -> None:
    path = f'$."{ATTRIBUTES[tree.attribute].attribute_id}"'
    match = compiled(tree)
    assert (match.condition, match.narrowing) == (f"exists({path} ? ({predicate}))", None)


def test_documents_are_compared_by_the_database_and_looked_up_by_their_values() -> None:
    match = compiled(AllOf((equals("config", '{"a": [1, {"b": null}]}'), equals("config", '"x"'))))
    assert match.condition == '(exists($."=1" ? (@ == true)) && exists($."=2" ? (@ == true)))'
    assert match.narrowing == (
        '((exists($."7"."a"[*] ? (@ == 1)) && exists($."7"."a"[*]."b" ? (@ == null)))'
        ' && (exists($."7" ? (@ == "x"))))'
    )
    assert match.documents is not None
    assert json.loads(match.documents) == [["7", {"a": [1, {"b": None}]}], ["7", "x"]]


def test_of_a_large_document_some_values_are_looked_up_and_of_an_empty_one_none() -> None:
    large = compiled(equals("config", json.dumps(list(range(1000)))))
    assert large.narrowing is not None
    assert large.narrowing.count("exists") == 16
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    assert compiled(equals("config", json.dumps(deep))).narrowing is None
    for empty in ("{}", "[]", '[{"a": {}}]'):
        assert compiled(equals("config", empty)).narrowing is None
        assert compiled(AnyOf((A, equals("config", empty)))).narrowing is None


def test_the_names_of_a_filter_come_once_each() -> None:
    tree = AllOf((A, Not(AnyOf((B, between("rpm", 1, 2)))), Exists("state", "")))
    assert attribute_names(tree) == ["on", "rpm", "state"]


def test_what_is_wrong_is_named() -> None:
    cold = refusal(Not(Exists("serial", "filter.not.exists")))
    assert (cold.reason, cold.metadata["attribute"]) == ("ATTRIBUTE_NOT_HOT", "serial")
    assert cold.field == "filter.not.exists.attribute"
    assert "PromoteAttribute" in cold.message
    assert "IndexAttribute" in cold.message
    second = Operand(DataType.TEXT, "12", "filter.in.values[1]")
    typed = refusal(Equals("rpm", (operand("rpm", 1), second), "filter.in"))
    assert (typed.reason, typed.field) == ("TYPE_MISMATCH", "filter.in.values[1]")
    assert typed.message == "attribute 'rpm' is INT, the value is TEXT"
    unknown = refusal(Equals("rmp", (second,), "filter.equals"))
    assert (unknown.reason, unknown.metadata["attribute"]) == ("ATTRIBUTE_UNKNOWN", "rmp")


@pytest.mark.parametrize(
    ("tree", "reason", "field"),
    [
        (between("on", False, True), "TYPE_MISMATCH", "filter.range.attribute"),
        (between("config", "1", "2"), "TYPE_MISMATCH", "filter.range.attribute"),
        (between("pressure", nan, None), "VALUE_NOT_FINITE", "filter.range.min"),
        (between("pressure", 1.0, nan), "VALUE_NOT_FINITE", "filter.range.max"),
        (between("rpm", 5, 4), "INVALID_FIELD", "filter.range"),
        (between("rpm", 5, 5, "[)"), "INVALID_FIELD", "filter.range"),
        (between("state", "é", "z"), "INVALID_FIELD", "filter.range"),
        (between("state", "\uffff", "\U00010000", "()"), None, None),
        (between("price", Decimal("1.0"), Decimal("1.00")), None, None),
    ],
)
def test_ranges_that_hold_nothing_are_refused(
    tree: Range, reason: str | None, field: str | None
) -> None:
    if reason is None:
        compiled(tree)
        return
    error = refusal(tree)
    assert (error.reason, error.field) == (reason, field)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("state", "a\0b", "TEXT_HAS_NUL"),
        ("config", "{", "JSON_INVALID"),
        ("config", "NaN", "JSON_INVALID"),
        ("config", "[" * 100_000, "JSON_INVALID"),
        ("config", '1], ["9", 1', "JSON_INVALID"),
        ("config", "1" + "0" * 5000, None),
        ("config", "1e999999999999999999999", "JSON_INVALID"),
        ("price", Decimal("NaN"), "VALUE_NOT_FINITE"),
        ("price", Decimal("1E+999999"), "DECIMAL_INVALID"),
        ("price", Decimal("1E-19"), "DECIMAL_INVALID"),
        ("price", Decimal("1E+99999999"), "DECIMAL_INVALID"),
        ("price", Decimal("1E-99999999"), "DECIMAL_INVALID"),
    ],
)
def test_values_that_no_point_can_have_are_refused(
    name: str, value: Scalar, reason: str | None
) -> None:
    if reason is None:
        compiled(equals(name, value))
    else:
        error = refusal(equals(name, value))
        assert (error.reason, error.field) == (reason, "filter.equals.value")
