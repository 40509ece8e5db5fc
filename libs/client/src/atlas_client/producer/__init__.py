"""A producer: points in, exactly once and in order, through breaks, restarts and full buffers."""

from atlas_client.producer.errors import (
    BufferFullError,
    ProducerClosedError,
    ProducerError,
    SpoolFullError,
    SpoolInUseError,
    UndeliveredError,
)
from atlas_client.producer.producer import Producer
from atlas_client.producer.records import ProducerStats, RefusedBatch

__all__ = [
    "BufferFullError",
    "Producer",
    "ProducerClosedError",
    "ProducerError",
    "ProducerStats",
    "RefusedBatch",
    "SpoolFullError",
    "SpoolInUseError",
    "UndeliveredError",
]
