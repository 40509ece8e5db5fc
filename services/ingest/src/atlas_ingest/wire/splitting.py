"""Where each point of a message stands in its bytes."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from atlas_ingest.wire.varints import MARGIN_BYTES

Ints: TypeAlias = npt.NDArray[np.int64]

_POINTS = 2  # The field's number in WriteRequest and WriteStreamBatch.


@dataclass(frozen=True, slots=True)
class Pieces:
    """Messages one behind the other.

    `data`: a buffer of their bytes, and MARGIN_BYTES more. `bounds`: where each begins, and where
    the last one ends.
    """

    data: Any
    bounds: Ints

    @property
    def count(self) -> int:
        """Messages."""
        return len(self.bounds) - 1


def split(message: bytes) -> Pieces:
    """The points of a serialized WriteRequest or WriteStreamBatch."""
    points = _Points.FromString(message).points
    points.append(bytes(MARGIN_BYTES))
    # pyarrow puts them behind each other faster than join() does, and says where each begins.
    _, offsets, data = pa.array(points[:], pa.binary()).buffers()
    bounds = np.frombuffer(offsets, dtype=np.int32, count=len(points))
    return Pieces(data, bounds.astype(np.int64))


def _points_class() -> Any:
    """A message on the same wire that leaves its points as they are: bytes."""
    file = descriptor_pb2.FileDescriptorProto(name="points.proto", syntax="proto3")
    file.message_type.add(name="Points").field.add(
        name="points",
        number=_POINTS,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    )
    pool = descriptor_pool.DescriptorPool()  # Of its own: it is nobody else's contract.
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Points"))


_Points = _points_class()
