"""JSON that Postgres would refuse or blow up on is refused first."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_ingest import documents

_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
)
_DOCUMENTS = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(derandomize=True)
@given(_DOCUMENTS, st.booleans())
def test_ordinary_documents_pass(document: object, ensure_ascii: bool) -> None:
    documents.check(json.dumps(document, ensure_ascii=ensure_ascii))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "JSON_INVALID"),
        ("{", "JSON_INVALID"),
        ("{'a': 1}", "JSON_INVALID"),
        ("[1,]", "JSON_INVALID"),
        ("01", "JSON_INVALID"),
        ("1 2", "JSON_INVALID"),
        ('"a\nb"', "JSON_INVALID"),
        ("\ufeff1", "JSON_INVALID"),
        ("[١]", "JSON_INVALID"),
        ("NaN", "VALUE_NOT_FINITE"),
        ('{"a": [-Infinity]}', "VALUE_NOT_FINITE"),
        ('"\\u0000"', "TEXT_HAS_NUL"),
        ('{"a\\u0000": 1}', "TEXT_HAS_NUL"),
        ('[{"a": "\\u0000"}]', "TEXT_HAS_NUL"),
        ('{"a": {"\\u0000": 1}, "a": 1}', "TEXT_HAS_NUL"),  # Postgres reads the first one, too.
        ('{"a": "\\ud800", "a": 1}', "JSON_INVALID"),
        ('{"a": ' + "[" * 65 + "]" * 65 + ', "a": 1}', "JSON_INVALID"),
        ('"\\ud800"', "JSON_INVALID"),
        ('{"\\udc00": 1}', "JSON_INVALID"),
        ("1e400000", "VALUE_OUT_OF_RANGE"),
        ("[-1e-999999999999]", "VALUE_OUT_OF_RANGE"),
        ("1e401", "VALUE_OUT_OF_RANGE"),
        ("9" * 401, "VALUE_OUT_OF_RANGE"),
        ("0." + "1" * 400, "VALUE_OUT_OF_RANGE"),
        ("[" + ",".join(["1e400"] * 200) + "]", "VALUE_OUT_OF_RANGE"),
        ("[" * 65 + "]" * 65, "JSON_INVALID"),
        ('{"a":' * 65 + "1" + "}" * 65, "JSON_INVALID"),
        ("[" * 30_000 + "]" * 30_000, "JSON_INVALID"),
    ],
)
def test_what_cannot_be_stored_is_named(text: str, reason: str) -> None:
    with pytest.raises(documents.DocumentError) as refused:
        documents.check(text)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "text",
    [
        ' {"a" : [1, 2.5e-3, -0, null] }\n',
        '"\\\\u0000"',  # An escaped backslash, not an escaped NUL.
        '"\\ud83d\\ude00"',
        "1e400",
        "[" + ",".join(["1e-300"] * 200) + "]",
        json.dumps(["9e99999999"] * 100),
        "9" * 400,
        "[" * 64 + "]" * 64,
        json.dumps("[" * 1_000),
        json.dumps([[]] * 1_000),
    ],
)
def test_what_only_looks_bad_passes(text: str) -> None:
    documents.check(text)
