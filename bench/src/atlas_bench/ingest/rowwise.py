"""Batches of points as protobuf messages: of Write, and of WriteStream, whose field is the same."""

from functools import cache

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_bench.errors import BenchError
from atlas_bench.ingest.blocks import Block, joined
from atlas_bench.ingest.fleet import Fleet, Window
from atlas_bench.template import VARINT_MAX, Template
from atlas_bench.workload import TIME_MARK, set_value

_PLACEHOLDER = "pump-#####"


class RowWise:
    """Encodes a fleet's batches. Their times are filled in as varints."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._names = [key.encode() for key in fleet.entity_keys]
        if len(self._names[-1]) != len(_PLACEHOLDER):
            raise BenchError("entity keys have to be of one length: want at most 100,000 entities")
        self._block = cache(self._make_block)

    def batch(self, window: Window) -> Template:
        """Return the `points` of a WriteRequest, or of a WriteStreamBatch."""
        parts = []
        for entity, profile in window.visits:
            block = self._block(profile)
            if window.points < len(self._fleet.attributes):
                block = block.cut(window.first_attribute, window.last_attribute)
            parts.append((block, self._names[entity]))
        return joined(parts, _PLACEHOLDER.encode())

    def _make_block(self, profile: int) -> Block:
        pieces = []
        values = self._fleet.profile(profile)
        for attribute, value in zip(self._fleet.attributes, values, strict=True):
            request = pb.WriteRequest()
            point = request.points.add(
                entity_key=_PLACEHOLDER, attribute=attribute.name, event_time_us=VARINT_MAX
            )
            set_value(point, attribute.data_type, value)
            body = request.SerializeToString()
            assert body.count(TIME_MARK) == 1, "something else looks like a time"
            pieces.append((body, [body.index(TIME_MARK) + 1]))  # Behind the tag.
        return Block.of(pieces)
