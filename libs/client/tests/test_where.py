"""Conditions become filters, in Python and from text."""

from decimal import Decimal

import pytest

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_client import Where, all_of, any_of, attribute
from atlas_client.cli.expressions import ExpressionError, parse_condition, parse_expression
from atlas_client.importing.cells import TimeUnit, cell_type, parser
from atlas_client.values import DataType, Value
from atlas_client.where import filter_message

STATE, TIER = attribute("state"), attribute("tier")
ON, TIER_3 = STATE == "on", TIER >= 3


def read(name: str, text: str, is_quoted: bool) -> Value:
    return parser(DataType.TEXT if is_quoted else cell_type(text), TimeUnit.SECONDS)(text)


def parsed(text: str) -> Where:
    return parse_expression(text, read)


def same(one: Where, other: Where) -> bool:
    return one.to_proto() == other.to_proto()


def test_comparisons_are_leaves() -> None:
    assert ON.to_proto() == pb.Filter(
        equals=pb.Equals(attribute="state", value=value_pb2.Value(text_value="on"))
    )
    three = value_pb2.Value(int_value=3)
    for where, ends in (
        (TIER >= 3, {"min": three}),
        (TIER > 3, {"min_exclusive": three}),
        (TIER <= 3, {"max": three}),
        (TIER < 3, {"max_exclusive": three}),
        (TIER.between(3, 3), {"min": three, "max": three}),
        (3 < TIER, {"min_exclusive": three}),  # noqa: SIM300 - what Python makes of it.
    ):
        assert where.to_proto() == pb.Filter(range=pb.Range(attribute="tier", **ends))
    part = getattr(TIER.one_of([1, 2]).to_proto(), "in")
    assert (part.attribute, [value.int_value for value in part.values]) == ("tier", [1, 2])
    assert TIER.exists().to_proto().exists.attribute == "tier"


def test_conditions_are_put_together() -> None:
    both = (ON & TIER_3 & TIER.exists()).to_proto()
    assert len(both.all_of.filters) == 3, "one level, since depth is bounded"
    assert len((ON | TIER_3 | ON).to_proto().any_of.filters) == 3
    mixed = (ON & (TIER_3 | ON)).to_proto()
    assert [part.WhichOneof("node") for part in mixed.all_of.filters] == ["equals", "any_of"]
    assert getattr((~ON).to_proto(), "not") == ON.to_proto()
    assert same(STATE != "on", ~ON)
    assert same(all_of([ON, TIER_3]), ON & TIER_3)
    assert same(any_of([ON, TIER_3]), ON | TIER_3)
    assert len(ON.to_proto().ListFields()) == 1, "parts stay as they were"


def test_a_condition_is_not_taken_for_a_truth() -> None:
    with pytest.raises(TypeError, match="use & for and"):
        _ = ON and TIER_3
    with pytest.raises(TypeError, match="use & for and"):
        _ = 1 < TIER < 3


def test_a_mapping_is_equalities() -> None:
    assert filter_message({"state": "on"}) == ON.to_proto()
    assert filter_message({"state": "on", "tier": 3}) == (ON & (TIER == 3)).to_proto()
    assert filter_message({}).WhichOneof("node") == "all_of"
    assert filter_message(ON) == ON.to_proto()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("state=on", ON),
        ("state = 'on'", ON),
        ("state==on AND tier>=3", ON & TIER_3),
        ("state=on or tier>=3 and tier<5", ON | (TIER_3 & (TIER < 5))),
        ("(state=on or tier>=3) and tier<5", (ON | TIER_3) & (TIER < 5)),
        ("not state=on and tier>=3", ~ON & TIER_3),
        ("not (state=on and tier>=3)", ~(ON & TIER_3)),
        ("not not state=on", ~~ON),
        ("state in (on, 'off, for now')", STATE.one_of(["on", "off, for now"])),
        ("state not in (on)", ~STATE.one_of(["on"])),
        ("exists(tier) and not exists(state)", TIER.exists() & ~STATE.exists()),
        ("exists=1", attribute("exists") == 1),
        ("'not'='and'", attribute("not") == "and"),
        ("\"a b\"='it''s'", attribute("a b") == "it's"),
        ("price > -1.5", attribute("price") > -1.5),
        ("serial='0012'", attribute("serial") == "0012"),
        ("path=/a/b:c*;?", attribute("path") == "/a/b:c*;?"),
    ],
)
def test_expressions(text: str, where: Where) -> None:
    assert same(parsed(text), where)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected an attribute at the end"),
        ("state", "expected = != < <= > >= or in after 'state' at the end"),
        ("state=", "expected a value at the end"),
        ("state=on tier=3", "expected and, or, or the end at 'tier=3'"),
        ("(state=on", "expected ) at the end"),
        ("state=on)", "expected and, or, or the end at ')'"),
        ("state in on", "expected ( at 'on'"),
        ("state in ()", "expected a value at ')'"),
        ("state not on", "expected in at 'on'"),
        ("exists(", "expected an attribute at the end"),
        ("state='on", 'a quote that is not closed at "\'on"'),
        ("state ! on", "unexpected at '! on'"),
        ("=on", "expected an attribute at '=on'"),
        ("(" * 17 + "a=1" + ")" * 17, "nested deeper than 16"),
        ("not " * 5000 + "a=1", "nested deeper than 16"),
    ],
)
def test_what_is_wrong_with_an_expression_is_shown(text: str, problem: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        parsed(text)
    assert problem in str(raised.value)


def test_a_single_condition_needs_no_quotes() -> None:
    assert same(parse_condition("label=a b (c)='d'", read), attribute("label") == "a b (c)='d'")
    assert same(parse_condition("tier>=3", read), TIER_3)
    assert same(parse_condition("state != on", read), STATE != "on")
    assert same(parse_condition("state=", read), STATE == "")
    for text in ("tier", "=3", " >3"):
        with pytest.raises(ExpressionError, match="ATTRIBUTE=VALUE"):
            parse_condition(text, read)


def test_values_keep_their_types() -> None:
    assert (attribute("p") >= Decimal("1.50")).to_proto().range.min.decimal_value == "1.50"
    with pytest.raises(TypeError):
        _ = attribute("p") == object()
