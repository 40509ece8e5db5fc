"""Rings of keys: what is one, and that errors tell no key."""

import json

import pytest
from pydantic import ValidationError

from atlas_common.config import TokenConfig
from atlas_common.key_ring import KeyRing

CANARY = "canary4711canary4711canary47"
GOOD = "MDEyMzQ1Njc4OWFiY2RlZg=="


def test_a_ring_is_read_and_not_shown() -> None:
    ring = KeyRing.parse(json.dumps({"keys": {"1": GOOD, "2": CANARY}, "active_key": 2}))
    assert ring.keys[1] == b"0123456789abcdef"
    assert str(ring) == "keys 1, 2, sealing with 2"
    assert CANARY not in repr(ring)
    assert "0123456789abcdef" not in repr(ring)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (f"{CANARY}", "not a ring of keys"),
        (f'{{"keys": {{"1": "{CANARY}"', "not a ring of keys"),
        (f'["{CANARY}"]', "not a ring of keys"),
        (f'{{"keys": {{"1": "{CANARY}"}}}}', "not a ring of keys"),
        (f'{{"keys": {{"{CANARY}": "{CANARY}"}}, "active_key": 1}}', "not a ring of keys"),
        (f'{{"keys": {{"1": ["{CANARY}"]}}, "active_key": 1}}', "key 1 is no text"),
        (f'{{"keys": {{"1": "!{CANARY}"}}, "active_key": 1}}', "key 1 is not base64"),
        (f'{{"keys": {{"1": "{CANARY}"}}, "active_key": 2}}', "active key 2 is not among"),
        ('{"keys": {"1": "Y2FuYXJ5"}, "active_key": 1}', "key 1: ids are 1..255, keys >= 16"),
        (f'{{"keys": {{"256": "{CANARY}"}}, "active_key": 256}}', "key 256: ids are 1..255"),
        ("[" * 100_000, "not a ring of keys"),
    ],
)
def test_what_is_no_ring_is_refused_and_not_repeated(document: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        KeyRing.parse(document)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"active_key": 1},
        {"keys": {"1": GOOD}},
        {"keys": {"1": GOOD}, "active_key": 1, "keys_source": "file:/ring"},
    ],
)
def test_keys_are_given_or_named(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="set keys and active_key, or keys_source"):
        TokenConfig.model_validate(given)
