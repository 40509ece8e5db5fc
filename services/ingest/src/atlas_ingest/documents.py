"""JSON values: what Postgres' jsonb would refuse, or blow up on, is found before it is sent."""

import json
import re
from typing import Any

DEPTH_MAX = 64
# jsonb keeps a number as it is and writes it out in full: "1e131071" is 8 bytes here and 128 kB in
# every answer. Beyond a double's range few readers could use it anyway.
NUMBER_EXPONENT_MAX = 400
NUMBER_DIGITS_MAX = 400
EXPONENTS_SUM_MAX = (
    65_536  # Of all numbers: [1e400,1e400,...] would be read as seventy times its size.
)

_NUMBER = re.compile(r"-?(?P<whole>[0-9]+)(?:\.(?P<fraction>[0-9]+))?(?:[eE](?P<exp>[+-]?[0-9]+))?")
_EXPONENT = re.compile("[0-9][eE]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class DocumentError(ValueError):
    """The text is no JSON document that can be stored; `reason` is a name of ErrorReason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check(text: str) -> None:
    """Return if jsonb can hold the document. Raises DocumentError."""
    try:
        document = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise DocumentError(
            "JSON_INVALID", f"does not parse: {error.msg} at character {error.pos}"
        ) from None
    except RecursionError:
        raise _too_deep() from None
    # Brackets are an upper bound of the depth, and escapes are the only way to write what a text
    # cannot hold: most documents need no walk.
    may_be_deep = text.count("[") + text.count("{") > DEPTH_MAX
    if may_be_deep or "\\u" in text or _EXPONENT.search(text):
        _walk(document)


def _walk(document: Any) -> None:
    """Level by level, without recursion: the document may be as deep as it likes."""
    level: list[Any] = [document]
    exponents = 0
    for _depth in range(DEPTH_MAX + 1):
        below: list[Any] = []
        for node in level:
            exponents += _visit(node, below)
        if exponents > EXPONENTS_SUM_MAX:
            raise _number_refused()
        if not any(isinstance(node, tuple | list) for node in level):
            return
        level = below
    raise _too_deep()


def _visit(node: Any, below: list[Any]) -> int:
    """Check one node, add what is in it to `below`; its exponent, if it is a number."""
    if isinstance(node, tuple):  # An object: see _DECODER.
        for key, value in node:
            _check_text(key)
            below.append(value)
    elif isinstance(node, list):
        below.extend(node)
    elif isinstance(node, str):
        _check_text(node)
    elif type(node) is int:  # Not a bool.
        return node
    return 0


def _check_text(text: str) -> None:
    if "\0" in text:
        raise DocumentError("TEXT_HAS_NUL", "holds \\u0000, which cannot be stored: remove it")
    if _SURROGATE.search(text):
        raise DocumentError("JSON_INVALID", "holds half of a surrogate pair")


def _too_deep() -> DocumentError:
    return DocumentError("JSON_INVALID", f"is nested deeper than {DEPTH_MAX} levels")


def _number(text: str) -> int:
    """Stands in for a number in the parsed document: the size of its exponent."""
    if len(text) <= NUMBER_DIGITS_MAX and "e" not in text and "E" not in text:
        return 0  # As most are: nothing to be taken apart.
    match = _NUMBER.fullmatch(text)
    assert match is not None  # The decoder hands over numbers alone.
    whole, fraction, exponent = match["whole"], match["fraction"] or "", match["exp"] or "0"
    if len(whole) + len(fraction) > NUMBER_DIGITS_MAX or len(exponent) > len("-0000400"):
        raise _number_refused()
    if abs(int(exponent)) > NUMBER_EXPONENT_MAX:
        raise _number_refused()
    return abs(int(exponent))


def _number_refused() -> DocumentError:
    return DocumentError(
        "VALUE_OUT_OF_RANGE",
        f"holds a number of more than {NUMBER_DIGITS_MAX} digits, or with an exponent beyond"
        f" {NUMBER_EXPONENT_MAX}, or too many with large ones",
    )


def _constant(name: str) -> None:
    raise DocumentError("VALUE_NOT_FINITE", f"holds {name}, which JSON does not have: use null")


# Objects as tuples of pairs: of doubled keys jsonb keeps the last one, but reads them all, and
# refuses the document for what is wrong with any.
_DECODER = json.JSONDecoder(
    parse_float=_number, parse_int=_number, parse_constant=_constant, object_pairs_hook=tuple
)
