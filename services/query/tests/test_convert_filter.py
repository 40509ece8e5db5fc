"""A request's filter becomes a tree, or is refused naming the part that is wrong."""

import pytest

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_common.errors import ServiceError
from atlas_common.values import DataType
from atlas_query.convert_filter import filter_tree
from atlas_query.filters import AllOf, AnyOf, Bound, Equals, Exists, Not, Operand, Range
from atlas_query.filters.tree import EVERY_ENTITY, leaves

from .filter_messages import all_of, any_of, equals, negated, one_of

ONE = value_pb2.Value(int_value=1)


def refusal(message: pb.Filter) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        filter_tree(message)
    return raised.value


def test_the_tree_knows_the_path_of_each_leaf() -> None:
    message = all_of(
        equals("a", int_value=1),
        negated(any_of(one_of("b", 1, 2), pb.Filter(exists=pb.Exists(attribute="c")))),
    )
    values = "filter.all_of.filters[1].not.any_of.filters[0].in"
    assert filter_tree(message) == AllOf(
        (
            Equals(
                "a",
                (Operand(DataType.INT, 1, "filter.all_of.filters[0].equals.value"),),
                "filter.all_of.filters[0].equals",
            ),
            Not(
                AnyOf(
                    (
                        Equals(
                            "b",
                            (
                                Operand(DataType.INT, 1, f"{values}.values[0]"),
                                Operand(DataType.INT, 2, f"{values}.values[1]"),
                            ),
                            values,
                        ),
                        Exists("c", "filter.all_of.filters[1].not.any_of.filters[1].exists"),
                    )
                )
            ),
        )
    )


def test_an_unset_filter_and_all_of_nothing_match_every_entity() -> None:
    assert filter_tree(pb.Filter()) == filter_tree(all_of()) == EVERY_ENTITY


@pytest.mark.parametrize(
    ("lower", "upper", "inclusive"),
    [
        ("min", "max", (True, True)),
        ("min_exclusive", "max_exclusive", (False, False)),
        ("min", None, (True, None)),
        (None, "max_exclusive", (None, False)),
    ],
)
def test_each_end_of_a_range_is_inclusive_or_not(
    lower: str | None, upper: str | None, inclusive: tuple[bool | None, bool | None]
) -> None:
    message = pb.Filter(range=pb.Range(attribute="a"))
    for end in (lower, upper):
        if end is not None:
            getattr(message.range, end).CopyFrom(ONE)
    tree = filter_tree(message)
    assert isinstance(tree, Range)
    for bound, end, is_inclusive in zip(
        (tree.lower, tree.upper), (lower, upper), inclusive, strict=True
    ):
        wanted = (
            None
            if is_inclusive is None
            else Bound(Operand(DataType.INT, 1, f"filter.range.{end}"), is_inclusive)
        )
        assert bound == wanted


@pytest.mark.parametrize(
    ("message", "reason", "field"),
    [
        (all_of(pb.Filter()), "INVALID_FIELD", "filter.all_of.filters[0]"),
        (any_of(), "INVALID_FIELD", "filter.any_of.filters"),
        (negated(pb.Filter()), "INVALID_FIELD", "filter.not"),
        (one_of("a"), "INVALID_FIELD", "filter.in.values"),
        (one_of("", 1), "INVALID_FIELD", "filter.in.attribute"),
        (pb.Filter(range=pb.Range(attribute="a")), "INVALID_FIELD", "filter.range"),
        (pb.Filter(range=pb.Range(min=ONE)), "INVALID_FIELD", "filter.range.attribute"),
        (
            pb.Filter(range=pb.Range(attribute="a", max_exclusive=value_pb2.Value())),
            "VALUE_MISSING",
            "filter.range.max_exclusive",
        ),
        (pb.Filter(exists=pb.Exists()), "INVALID_FIELD", "filter.exists.attribute"),
        (equals("a"), "VALUE_MISSING", "filter.equals.value"),
        (equals("", int_value=1), "INVALID_FIELD", "filter.equals.attribute"),
        (equals("a", decimal_value="1,5"), "DECIMAL_INVALID", "filter.equals.value"),
        (equals("a", text_value="x" * 65_537), "INVALID_FIELD", "filter.equals.value"),
        (one_of("a", *range(257)), "BATCH_TOO_LARGE", "filter.in.values"),
        (any_of(*[equals("a", int_value=1)] * 33), "BATCH_TOO_LARGE", "filter.any_of.filters"),
    ],
)
def test_half_filled_and_overfull_filters_are_refused(
    message: pb.Filter, reason: str, field: str
) -> None:
    error = refusal(message)
    assert (error.reason, error.field) == (reason, field)


def test_depth_and_size_are_bounded_by_the_schema() -> None:
    deep = equals("a", int_value=1)
    for _ in range(15):
        deep = negated(deep)
    filter_tree(deep)
    too_deep = refusal(negated(deep))
    assert too_deep.reason == "INVALID_FIELD"
    assert "deeper than 16 levels" in too_deep.message
    full = any_of(*[one_of("a", *range(8))] * 32)
    assert len(list(leaves(filter_tree(full)))) == 32
    too_many = refusal(all_of(full, equals("a", int_value=1)))
    assert (too_many.reason, too_many.field) == ("BATCH_TOO_LARGE", "filter")
    assert too_many.metadata["leaves"] == "257"
