"""Encoded batches whose times are filled in afresh for every send.

Encoding a thousand points costs more than sending them. The driver shares its machine with what it
measures, so it encodes each batch once and then only overwrites the times.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_TIME_BYTES = 8
_SEVEN_BITS = np.arange(_TIME_BYTES, dtype=np.uint64) * np.uint64(7)
_CONTINUED = np.array([0x80] * (_TIME_BYTES - 1) + [0], dtype=np.uint8)

VARINT_MIN = 1 << 49
"""From here on a varint has eight bytes: any time since 1987, in microseconds."""
VARINT_MAX = (1 << 56) - 1


@dataclass(frozen=True)
class Template:
    """An encoded batch, and where in it the times stand, eight bytes each."""

    body: bytes
    offsets: npt.NDArray[np.int64]

    def with_varints(self, times: npt.NDArray[np.int64]) -> bytes:
        """Return the batch with its times (VARINT_MIN to VARINT_MAX) as protobuf varints."""
        digits = (times.astype(np.uint64)[:, None] >> _SEVEN_BITS) & np.uint64(0x7F)
        return self._filled(digits.astype(np.uint8) | _CONTINUED)

    def with_big_endian(self, times: npt.NDArray[np.int64]) -> bytes:
        """Return the batch with its times as big-endian 64-bit integers."""
        return self._filled(times.astype(">i8").view(np.uint8).reshape(-1, _TIME_BYTES))

    def _filled(self, encoded: npt.NDArray[np.uint8]) -> bytes:
        body = np.frombuffer(bytearray(self.body), dtype=np.uint8)
        body[self.offsets[:, None] + np.arange(_TIME_BYTES)] = encoded
        return body.tobytes()
