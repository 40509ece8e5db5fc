"""Answers as JSON or as tables."""

import base64
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

_PIPED_WIDTH = 4_000  # No terminal would be so wide: cells are not cut for one that is not there.


def to_json(value: Any) -> Any:
    """Return what json can write.

    Records become objects, times ISO 8601 in UTC, spans seconds, decimals and tokens (base64)
    texts, and NaN and the infinities texts, too.
    """
    converted = value
    if is_dataclass(value) and not isinstance(value, type):
        converted = {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
    elif isinstance(value, dict):
        converted = {str(to_json(key)): to_json(item) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        converted = [to_json(item) for item in value]
    elif isinstance(value, bytes):
        converted = base64.b64encode(value).decode()
    elif isinstance(value, datetime):
        converted = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    elif isinstance(value, timedelta):
        converted = value.total_seconds()
    elif isinstance(value, Enum):
        converted = value.value
    elif isinstance(value, Decimal) or (isinstance(value, float) and not math.isfinite(value)):
        converted = str(value)
    return converted


def print_json(value: Any) -> None:
    """Print one JSON value on one line."""
    typer.echo(json.dumps(to_json(value), ensure_ascii=False))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print a table; in full where stdout is no terminal."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(shown(cell) for cell in row))
    piped = not sys.stdout.isatty()
    console = Console(
        width=_PIPED_WIDTH if piped else None, soft_wrap=piped, markup=False, highlight=False
    )
    console.print(table)


def shown(value: Any) -> str:
    """Return a value for people."""
    if value is None:
        return "-"
    plain = to_json(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def note(text: str) -> None:
    """Say something beside the answer."""
    typer.echo(text, err=True)
