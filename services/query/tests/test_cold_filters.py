"""Where the database is told to look for what a filter with cold attributes matches."""

import json
from dataclasses import replace
from decimal import Decimal
from math import inf, nan
from typing import Any

import pytest

from atlas_common.values import DataType, Scalar
from atlas_query.filters import (
    AllOf,
    AnyOf,
    Bound,
    Equals,
    Exists,
    Filter,
    Not,
    Operand,
    Range,
    check_filter,
    compile_cold_filter,
)
from atlas_query.filters.cold import ColdMatch
from atlas_query.filters.tree import EVERY_ENTITY

from .test_filters import ATTRIBUTES as HOT

ATTRIBUTES = {
    **HOT,
    **{
        f"cold_{name}": replace(
            one,
            name=f"cold_{name}",
            attribute_id=one.attribute_id + 100,
            is_hot=False,
            is_indexed=True,
        )
        for name, one in HOT.items()
    },
}


def equals(name: str, *values: Scalar) -> Equals:
    operands = tuple(Operand(ATTRIBUTES[name].data_type, value, "filter") for value in values)
    return Equals(name, operands, "filter.equals")


def compiled(tree: Filter) -> ColdMatch:
    check_filter(tree, ATTRIBUTES)
    return compile_cold_filter(tree, ATTRIBUTES)


def ways(tree: Filter) -> list[Any]:
    found: list[Any] = json.loads(compiled(tree).ways)
    return found


def cold(name: str, **told: Any) -> dict[str, Any]:
    one = ATTRIBUTES[name]
    return {"attribute": one.attribute_id, "type": str(one.data_type), **told}


RPM, STATE = equals("cold_rpm", 5), equals("state", "on")
HOT_STATE = 'exists($."5" ? (@ == "on"))'


def test_the_whole_filter_is_one_jsonpath_and_what_follows_for_hot_attributes_another() -> None:
    match = compiled(AllOf((STATE, RPM)))
    assert match.condition == f'({HOT_STATE} && exists($."102" ? (@ == 5)))'
    assert (match.hot_condition, match.cold_ids) == (HOT_STATE, (102,))
    for tree, hot in (
        (AnyOf((STATE, RPM)), None),
        (AllOf((Not(RPM), Not(STATE))), f"!({HOT_STATE})"),
        # Not both: either may be what fails.
        (Not(AllOf((RPM, STATE))), None),
        (Not(AnyOf((RPM, STATE))), f"!({HOT_STATE})"),
        (AllOf((RPM, EVERY_ENTITY)), None),
    ):
        assert compiled(tree).hot_condition == hot


@pytest.mark.parametrize(
    ("tree", "wanted"),
    [
        (equals("cold_rpm", 5, 6, 5), [("cold_rpm", ["5", "6"], True)]),
        (equals("cold_pressure", nan, -inf), [("cold_pressure", ["nan", "-inf"], True)]),
        (equals("cold_on", True), [("cold_on", ["true"], True)]),
        (equals("cold_price", Decimal("1.50")), [("cold_price", ["1.50"], True)]),
        (equals("cold_since", 1), [("cold_since", ["1970-01-01T00:00:00.000001+00:00"], True)]),
        (equals("cold_config", '{"a": 1}'), [("cold_config", ['{"a": 1}'], True)]),
        (equals("cold_rpm", *range(9)), [("cold_rpm", [str(n) for n in range(9)], False)]),
        (Not(Not(RPM)), [("cold_rpm", ["5"], True)]),
        (Not(RPM), []),
        (AnyOf((RPM, Not(RPM))), []),
        (AnyOf((RPM, EVERY_ENTITY)), []),
    ],
)  # fmt: skip
def test_values_of_one_attribute_are_a_way(tree: Filter, wanted: list[Any]) -> None:
    assert ways(tree) == [
        {"is_ordered": is_ordered, "hot": None, "cold": [cold(name, **{"in": values})]}
        for name, values, is_ordered in wanted
    ]


def test_ranges_and_existence_are_ways_that_come_last() -> None:
    five = Bound(Operand(DataType.INT, 5, "filter"), is_inclusive=False)
    found = ways(AllOf((Exists("cold_state", ""), Range("cold_rpm", five, None, ""), STATE, RPM)))
    assert found == [
        {"is_ordered": True, "hot": None, "cold": [cold("cold_rpm", **{"in": ["5"]})]},
        {"is_ordered": False, "hot": HOT_STATE, "cold": []},
        # With what is at the end: the filter itself decides.
        {"is_ordered": False, "hot": None, "cold": [cold("cold_rpm", **{"from": "5"})]},
    ]
    (below,) = ways(Range("cold_rpm", None, five, ""))
    assert below["cold"] == [cold("cold_rpm", to="5")]
    assert ways(Exists("cold_state", ""))[0]["cold"] == [cold("cold_state")]


def test_alternatives_are_one_way_of_the_best_of_each() -> None:
    tree = AnyOf((RPM, AllOf((STATE, equals("cold_state", "a"))), equals("state", "off")))
    assert ways(tree) == [
        {
            "is_ordered": False,
            "hot": '(exists($."5" ? (@ == "off")))',
            "cold": [cold("cold_rpm", **{"in": ["5"]}), cold("cold_state", **{"in": ["a"]})],
        }
    ]
    assert ways(AnyOf(tuple(equals("cold_rpm", n) for n in range(17)))) == []
    assert len(ways(AllOf(tuple(equals("cold_rpm", n) for n in range(9))))) == 3
