"""atlas produce."""

import asyncio
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas_client.cli import exits
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.output import note, print_json
from atlas_client.importing.cells import TimeUnit, parse_time, parser
from atlas_client.importing.errors import CellError
from atlas_client.producer import Producer, ProducerError, RefusedBatch
from atlas_client.records import AckLevel, Point
from atlas_client.values import DataType, from_us

app = typer.Typer()
_LINE_CHARS_MAX = 2**20
_ERRORS_SHOWN_MAX = 20


class _Complaints:
    """Lines and points that are not stored: the first are told, all are counted."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, text: str, count: int = 1) -> None:
        self.count += count
        if self.count - count < _ERRORS_SHOWN_MAX:
            note(f"atlas: {text}")

    def refused(self, batch: RefusedBatch) -> None:
        for error in batch.errors[:_ERRORS_SHOWN_MAX]:
            point = batch.points[error.index]
            self.add(f"{point.entity_key} {point.attribute}: {error.message}", 0)
        self.count += batch.rejected_count


@app.command(epilog=exits.EPILOG)
@connected()
async def produce(
    context: Context,
    *,
    producer_id: Annotated[str, typer.Argument(metavar="PRODUCER")],
    ack: Annotated[AckLevel, typer.Option("--ack", help="When to let go.")] = AckLevel.DURABLE,
    spool: Annotated[
        Path | None,
        typer.Option("--spool", help="Directory for what waits; survives this process."),
    ] = None,
    durable: Annotated[
        bool, typer.Option("--durable", help="Everything is in the spool before it is sent.")
    ] = False,
) -> int:
    """Store points from stdin, until it ends. A line is a JSON object: entity, attribute, value.

    It may have time (ISO 8601 or seconds; default: now) and quality, too. Bad lines and refused
    points are told and passed over; then the exit code is 1.

    Example: atlas produce gateway-7 --tenant acme < points.ndjson
    """
    types = {each.name: each.data_type async for each in context.client.list_attributes()}
    complaints = _Complaints()
    try:
        async with Producer(
            context.client,
            producer_id,
            ack=ack,
            spool_directory=spool,
            durable=durable,
            on_refused=complaints.refused,
        ) as producer:
            number = 0
            # Line by line, in a thread: a pipe's lines are sent as they come.
            while line := await asyncio.to_thread(_read_line):
                number += 1
                point = _point_of(line, number, types, complaints)
                if point is not None:
                    await producer.send_many((point,))
    except ProducerError as error:
        raise exits.fail(str(error), exits.UNAVAILABLE) from error
    except ValueError as error:
        raise exits.fail(str(error), exits.USAGE) from error
    stats = producer.stats()
    if context.as_json:
        print_json(stats)
    else:
        note(f"stored {stats.accepted_points} points in {stats.acknowledged_batches} batches")
    if stats.waiting_points:
        note(f"atlas: {stats.waiting_points} points wait in the spool: run this again")
        return exits.UNAVAILABLE
    return exits.REFUSED if complaints.count else exits.OK


def _read_line() -> str:
    return sys.stdin.readline(_LINE_CHARS_MAX)


def _point_of(
    line: str, number: int, types: Mapping[str, DataType], complaints: _Complaints
) -> Point | None:
    if not line.strip():
        return None
    try:
        return _point(json.loads(line), types)
    except KeyError as error:
        complaints.add(f"line {number}: it has no {error}")
    except (ValueError, TypeError, CellError) as error:
        complaints.add(f"line {number}: {error}")
    return None


def _point(line: Any, types: Mapping[str, DataType]) -> Point:
    if not isinstance(line, dict):
        raise TypeError("not a JSON object")
    attribute, value = str(line["attribute"]), line["value"]
    data_type = types.get(attribute)
    if data_type is not None:
        text = value if isinstance(value, str) and data_type is not DataType.JSON else None
        value = parser(data_type, TimeUnit.SECONDS)(json.dumps(value) if text is None else text)
    time = line.get("time")
    moment = datetime.now(UTC) if time is None else from_us(parse_time(str(time), TimeUnit.SECONDS))
    return Point(str(line["entity"]), attribute, value, moment, int(line.get("quality", 0)))
