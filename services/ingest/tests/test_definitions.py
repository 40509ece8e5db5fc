"""Definitions of attributes that cannot be are refused by field."""

from typing import Any

import pytest

from atlas_common.values import DataType
from atlas_ingest.catalog.definitions import DefinitionError, draft_of

TEXT: dict[str, Any] = {
    "name": "serial",
    "data_type": DataType.TEXT,
    "is_hot": False,
    "unit": "",
    "validation_regex": "",
    "min_value": "",
    "max_value": "",
    "allowed_values": (),
}
NUMBER = {**TEXT, "data_type": DataType.DOUBLE}


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        ({**TEXT, "name": ""}, "name"),
        ({**TEXT, "name": "x" * 129}, "name"),
        ({**TEXT, "name": "a\0"}, "name"),
        ({**TEXT, "data_type": None}, "data_type"),
        ({**TEXT, "unit": "ü" * 33}, "unit"),
        ({**TEXT, "unit": "\0"}, "unit"),
        ({**TEXT, "validation_regex": "("}, "validation_regex"),
        ({**TEXT, "validation_regex": "(?=x)"}, "validation_regex"),
        ({**TEXT, "validation_regex": "((a{100}){100}){100}"}, "validation_regex"),
        ({**TEXT, "validation_regex": "x" * 1025}, "validation_regex"),
        ({**TEXT, "validation_regex": "\0"}, "validation_regex"),
        ({**NUMBER, "validation_regex": "x"}, "validation_regex"),
        ({**NUMBER, "allowed_values": ("x",)}, "allowed_values"),
        ({**TEXT, "allowed_values": ("a\0",)}, "allowed_values"),
        ({**TEXT, "allowed_values": ("x",) * 1001}, "allowed_values"),
        ({**TEXT, "min_value": "1"}, "min_value"),
        ({**NUMBER, "min_value": "NaN"}, "min_value"),
        ({**NUMBER, "max_value": "1e999999"}, "max_value"),
        ({**NUMBER, "max_value": "0" * 65}, "max_value"),
        ({**NUMBER, "min_value": "2", "max_value": "1.99"}, "min_value"),
    ],
)
def test_a_bad_definition_names_its_field(definition: dict[str, Any], field: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        draft_of(**definition)
    assert refused.value.field == field
    assert len(str(refused.value)) < 300


def test_good_definitions_pass() -> None:
    draft_of(**{**TEXT, "validation_regex": "^[A-Z]+$", "allowed_values": ("A", "B")})
    draft_of(**{**NUMBER, "min_value": "-1e300", "max_value": "1e300"})
    draft_of(**{**NUMBER, "min_value": "1", "max_value": "1.0"})


def test_a_pattern_that_would_cost_too_much_for_each_byte_is_refused() -> None:
    with pytest.raises(DefinitionError, match="repeat less"):
        draft_of(**{**TEXT, "validation_regex": "(.*a.{500})"})
    # RE2 takes time in proportion to the text, whatever the pattern: this one is harmless.
    assert draft_of(**{**TEXT, "validation_regex": "(a+)+$"}).validation_regex == "(a+)+$"
