"""Batches of points as Arrow IPC streams; their event times are overwritten before each send."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atlas_bench.ingest.fleet import PROFILES, Fleet, Window
from atlas_bench.workload import Scalar
from atlas_client import DataType

_IPC_STREAM_TAG = b"\x12"  # WriteArrowRequest.ipc_stream, field 2.
_TIME = pa.timestamp("us", tz="UTC")
_VALUE_TYPES = {
    DataType.BOOL: pa.bool_(),
    DataType.INT: pa.int64(),
    DataType.DOUBLE: pa.float64(),
    DataType.DECIMAL: pa.decimal128(20, 3),
    DataType.TEXT: pa.string(),
    DataType.TIME: _TIME,
    DataType.JSON: pa.string(),
}


@dataclass(frozen=True)
class ArrowTemplate:
    """An encoded WriteArrowRequest, and where in it the event times stand, all in a row."""

    body: bytes
    offset: int
    rows: int

    def with_times(self, times: npt.NDArray[np.int64]) -> bytes:
        """Return the message with its event times, in microseconds since 1970."""
        body = bytearray(self.body)
        body[self.offset : self.offset + 8 * self.rows] = times.astype("<i8").tobytes()
        return bytes(body)


class Columnar:
    """Encodes a fleet's batches: keys and attributes as dictionaries, a column for each type."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._attributes = pa.array([attribute.name for attribute in fleet.attributes])
        rows = [fleet.profile(number) for number in range(PROFILES)]
        self._values = pa.table(
            {
                f"{kind}_value": pa.array(self._column(rows, kind), type=arrow_type)
                for kind, arrow_type in _VALUE_TYPES.items()
            }
        )

    def batch(self, window: Window) -> ArrowTemplate:
        """Return a WriteArrowRequest with one IPC stream of one record batch."""
        width = window.last_attribute - window.first_attribute
        entities = sorted({entity for entity, _ in window.visits})
        index_of = {entity: index for index, entity in enumerate(entities)}
        keys = pa.array([self._fleet.entity_keys[entity] for entity in entities])
        key_indices = np.repeat([index_of[entity] for entity, _ in window.visits], width)
        attributes = np.arange(window.first_attribute, window.last_attribute)
        rows = np.concatenate(
            [profile * len(self._fleet.attributes) + attributes for _, profile in window.visits]
        )
        values = self._values.take(pa.array(rows)).combine_chunks()
        # Nothing else in the message looks like so long a run of times.
        times = np.arange(window.points, dtype=np.int64) + (1 << 60)
        columns = {
            "entity_key": pa.DictionaryArray.from_arrays(key_indices.astype(np.int16), keys),
            "attribute": pa.DictionaryArray.from_arrays(
                np.tile(attributes, len(window.visits)).astype(np.int16), self._attributes
            ),
            "event_time": pa.array(times).cast(_TIME),
            **{name: values.column(name).combine_chunks() for name in values.column_names},
        }
        return _template(pa.record_batch(columns), times)

    def _column(self, rows: list[list[Scalar]], kind: DataType) -> list[Scalar | None]:
        return [
            value if attribute.data_type is kind else None
            for row in rows
            for attribute, value in zip(self._fleet.attributes, row, strict=True)
        ]


def _template(batch: "pa.RecordBatch", times: npt.NDArray[np.int64]) -> ArrowTemplate:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    stream = sink.getvalue().to_pybytes()
    body = _IPC_STREAM_TAG + varint(len(stream)) + stream
    wanted = times.astype("<i8").tobytes()
    offset = body.find(wanted)
    assert offset >= 0, "the times are not in one piece"
    return ArrowTemplate(body, offset, len(times))


def varint(number: int) -> bytes:
    """Return a number that is not negative as protobuf has it."""
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
