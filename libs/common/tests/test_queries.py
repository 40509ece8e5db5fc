"""The queries.sql format."""

import pytest

from atlas_common.db.queries import load_queries, parse_queries


def test_blocks_become_queries_under_their_names() -> None:
    queries = parse_queries(
        """-- What this file is for.
-- name: first
-- Its purpose.
SELECT a -- inline remarks stay
FROM t
WHERE x = %(x)s;

--name: second
SELECT 2
""",
        "x.sql",
    )
    assert dict(queries) == {
        "first": b"/* first */ SELECT a -- inline remarks stay\nFROM t\nWHERE x = %(x)s",
        "second": b"/* second */ SELECT 2",
    }


def test_the_mapping_is_frozen_and_a_missing_name_is_an_error() -> None:
    queries = parse_queries("-- name: a\nSELECT 1", "x.sql")
    with pytest.raises(KeyError):
        queries["b"]
    with pytest.raises(TypeError):
        queries["b"] = b""  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2", "two queries named a"),
        ("SELECT 1\n-- name: a\nSELECT 2", "before the first"),
        ("SELECT 1", "before the first"),
        ("-- name: a\n-- only words\n-- name: b\nSELECT 1", "a is empty"),
        ("-- name: Two-Words\nSELECT 1", "no name"),
        ("-- name:\nSELECT 1", "no name"),
    ],
)
def test_mistakes_stop_the_import(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_queries(text, "x.sql")


def test_expectations_name_what_differs() -> None:
    names = set(load_queries("atlas_common.db"))
    assert load_queries("atlas_common.db", expect=names)
    with pytest.raises(ValueError, match=r"\['beat_heart', 'extra'\]"):
        load_queries("atlas_common.db", expect=(names - {"beat_heart"}) | {"extra"})
