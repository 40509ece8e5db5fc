"""Values on the command line: by their attributes' types, conditions on them, consistency."""

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum

import typer

from atlas_client.cli.expressions import ExpressionError, parse_condition, parse_expression
from atlas_client.client import AtlasClient
from atlas_client.consistency import Consistency, at_least_as_fresh, eventual, strong
from atlas_client.importing.cells import TimeUnit, cell_type, parse_time, parser
from atlas_client.importing.errors import CellError
from atlas_client.values import DataType, Value
from atlas_client.where import Where, all_of

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d)?")
_UNITS = {
    "us": timedelta(microseconds=1),
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


class ReadLevel(StrEnum):
    """What a read must have seen."""

    STRONG = "strong"
    EVENTUAL = "eventual"
    FRESH = "fresh"
    """At least as fresh as --token."""


async def typed_assignments(client: AtlasClient, texts: Sequence[str]) -> dict[str, Value]:
    """Read "rpm=1480" by the types in the catalog; by their looks what is not there.

    Raises typer.BadParameter.
    """
    split = [text.partition("=") for text in texts]
    for name, equals, _ in split:
        if not name or not equals:
            raise typer.BadParameter(f"{name + equals!r}: write ATTRIBUTE=VALUE")
    types = {each.name: each.data_type async for each in client.list_attributes()}
    values: dict[str, Value] = {}
    for name, _, text in split:
        data_type = types.get(name) or cell_type(text)
        try:
            values[name] = parser(data_type, TimeUnit.SECONDS)(text)
        except CellError as error:
            raise typer.BadParameter(f"{name}: {error}") from error
    return values


async def where(
    client: AtlasClient, conditions: Sequence[str], expressions: Sequence[str]
) -> Where:
    """Read conditions like "rpm>1480" and whole expressions, all of which must hold.

    Values are read by the types in the catalog; by their looks of attributes that are not there.
    Raises typer.BadParameter.
    """
    types = {each.name: each.data_type async for each in client.list_attributes()}

    def read(name: str, text: str, is_quoted: bool) -> Value:
        looks_like = DataType.TEXT if is_quoted else cell_type(text)
        try:
            return parser(types.get(name) or looks_like, TimeUnit.SECONDS)(text)
        except CellError as error:
            raise ExpressionError(f"{name}: {error}") from error

    try:
        parts = [parse_condition(text, read) for text in conditions]
        parts += [parse_expression(text, read) for text in expressions]
    except ExpressionError as error:
        raise typer.BadParameter(str(error)) from error
    if not parts:
        raise typer.BadParameter("give a condition: ATTRIBUTE=VALUE, or --where EXPRESSION")
    return parts[0] if len(parts) == 1 else all_of(parts)


def consistency(
    level: ReadLevel | None, token: str | None, max_staleness: float | None
) -> Consistency | None:
    """Put the options together; None: the platform's default. Raises typer.BadParameter."""
    raw = decode_token(token)
    if level is ReadLevel.STRONG:
        return strong()
    if level is ReadLevel.FRESH and not raw:
        raise typer.BadParameter("--consistency fresh needs a --token")
    if level is ReadLevel.EVENTUAL or max_staleness is not None:
        bound = None if max_staleness is None else timedelta(seconds=max_staleness)
        return eventual(bound, token=raw)
    return at_least_as_fresh(raw) if raw else None


def decode_token(token: str | None) -> bytes:
    """Read a token as `--json` prints it. Raises typer.BadParameter."""
    try:
        return base64.b64decode(token or "", validate=True)
    except binascii.Error as error:
        raise typer.BadParameter("--token: not as `atlas write --json` prints it") from error


def span(text: str) -> timedelta:
    """Read a length of time, for example 500ms, 30s, 1m, 2h or 1d; a bare number is seconds.

    Raises typer.BadParameter.
    """
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no length of time: write 500ms, 30s, 1m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def time_us(text: str) -> int:
    """Read a time as ISO 8601 or as seconds since 1970. Raises typer.BadParameter."""
    try:
        return parse_time(text, TimeUnit.SECONDS)
    except CellError as error:
        raise typer.BadParameter(str(error)) from error
