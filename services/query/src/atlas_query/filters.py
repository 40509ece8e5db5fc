"""A filter over hot attributes, as what the projection must contain. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite, isnan

from atlas_common import errors
from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType, Scalar, decimal_text

CONDITIONS_MAX = 256
_DECIMAL_DIGITS_BEFORE_MAX = 20
_DECIMAL_DIGITS_AFTER_MAX = 18


@dataclass(frozen=True, slots=True)
class Condition:
    """attribute = value; `path` is the request field that says so."""

    attribute: str
    data_type: DataType
    value: Scalar
    path: str


@dataclass(frozen=True, slots=True)
class Match:
    """What `entity_jsonb.attrs` must contain, and what in it must be equal; as JSON objects."""

    containment: str = "{}"
    exact: str = "{}"
    is_impossible: bool = False
    """An attribute would have to have two values at once: no entity matches."""


def compile_filter(
    conditions: Iterable[Condition], attributes: Mapping[str, AttributeDef]
) -> Match:
    """All conditions as one match. `attributes` has those that exist, by name.

    Raises ServiceError INVALID_ARGUMENT: ATTRIBUTE_UNKNOWN, ATTRIBUTE_NOT_HOT, TYPE_MISMATCH, and
    what `json_text` raises.
    """
    texts: dict[int, str] = {}
    exact: set[int] = set()
    is_impossible = False
    for condition in conditions:
        attribute = _hot(condition, attributes)
        text = json_text(condition)
        is_other = texts.setdefault(attribute.attribute_id, text) != text
        if attribute.data_type is DataType.JSON:
            exact.add(attribute.attribute_id)
            if is_other:  # Two documents may be one, written in two ways: only Postgres could tell.
                raise errors.invalid_argument(
                    "INVALID_FIELD",
                    f"attribute {attribute.name!r} is compared with two documents",
                    field=condition.path,
                )
        is_impossible |= is_other
    return Match(_object(texts), _object({i: texts[i] for i in exact}), is_impossible)


def json_text(condition: Condition) -> str:
    """The value's JSON text, as hot_value() in db makes it: equal values have equal texts.

    Raises ServiceError INVALID_ARGUMENT: TEXT_HAS_NUL, JSON_INVALID, DECIMAL_INVALID,
    VALUE_NOT_FINITE.
    """
    value, path = condition.value, condition.path
    match condition.data_type:
        case DataType.BOOL:
            return "true" if value else "false"
        case DataType.INT | DataType.TIME:
            return str(value)
        case DataType.DOUBLE:
            return _double_text(float(value))
        case DataType.DECIMAL:
            assert isinstance(value, Decimal)
            return _decimal_text(value, path)
        case DataType.TEXT:
            return json.dumps(_without_nul(str(value), path))
        case DataType.JSON:
            return _document(str(value), path)


def _hot(condition: Condition, attributes: Mapping[str, AttributeDef]) -> AttributeDef:
    attribute = attributes.get(condition.attribute)
    if attribute is None:
        raise unknown_attribute(condition.attribute, f"{condition.path}.attribute")
    if not attribute.is_hot:
        raise errors.invalid_argument(
            "ATTRIBUTE_NOT_HOT",
            f"attribute {attribute.name!r} is cold, filters are over hot ones: filter by a hot"
            " attribute, or read this one with GetEntities or GetHistory",
            field=f"{condition.path}.attribute",
            attribute=attribute.name,
        )
    if attribute.data_type is not condition.data_type:
        raise errors.invalid_argument(
            "TYPE_MISMATCH",
            f"attribute {attribute.name!r} is {attribute.data_type.upper()},"
            f" the value is {condition.data_type.upper()}",
            field=f"{condition.path}.value",
            attribute=attribute.name,
            attribute_type=attribute.data_type.value,
            value_type=condition.data_type.value,
        )
    return attribute


def unknown_attribute(name: str, field: str) -> errors.ServiceError:
    """The error of a name that no attribute of the tenant has."""
    return errors.invalid_argument(
        "ATTRIBUTE_UNKNOWN", f"there is no attribute {name!r}", field=field, attribute=name
    )


def _object(texts: Mapping[int, str]) -> str:
    return "{" + ", ".join(f'"{key}": {text}' for key, text in texts.items()) + "}"


def _double_text(value: float) -> str:
    if isfinite(value):
        return repr(value + 0.0)  # The projection knows no negative zero.
    return '"NaN"' if isnan(value) else ('"Infinity"' if value > 0 else '"-Infinity"')


def _decimal_text(value: Decimal, path: str) -> str:
    if not value.is_finite():
        raise errors.invalid_argument(
            "VALUE_NOT_FINITE", "a decimal is never NaN or infinite", field=f"{path}.value"
        )
    if value and (
        value.adjusted() >= _DECIMAL_DIGITS_BEFORE_MAX
        or _digits_after_point(value) > _DECIMAL_DIGITS_AFTER_MAX
    ):
        raise errors.invalid_argument(
            "DECIMAL_INVALID",
            f"a decimal has at most {_DECIMAL_DIGITS_BEFORE_MAX} digits before and"
            f" {_DECIMAL_DIGITS_AFTER_MAX} after the point",
            field=f"{path}.value",
        )
    return decimal_text(value) if value else "0"


def _digits_after_point(value: Decimal) -> int:
    # Not Decimal.normalize(): it rounds to its context's 28 digits, and fails beyond its exponents.
    _sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    trailing_zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    return -(exponent + trailing_zeros)


def _document(text: str, path: str) -> str:
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise errors.invalid_argument(
            "JSON_INVALID", "the JSON value does not parse", field=f"{path}.value"
        ) from None
    return text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _without_nul(text: str, path: str) -> str:
    if "\0" in text:
        raise errors.invalid_argument(
            "TEXT_HAS_NUL", "the value holds U+0000", field=f"{path}.value"
        )
    return text
