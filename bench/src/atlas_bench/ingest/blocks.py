"""Batches put together from pieces that are encoded once: a million points in a second."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atlas_bench.template import Template


@dataclass(frozen=True)
class Block:
    """One row of values, encoded: a piece for each attribute, one after another.

    A placeholder stands where the entity is named, as long as what will stand there.
    """

    body: bytes
    starts: npt.NDArray[np.int64]
    """Where each piece begins, and where the last one ends."""
    times: npt.NDArray[np.int64]
    """Where the times stand; as many in each piece."""

    @classmethod
    def of(cls, pieces: Sequence[tuple[bytes, Sequence[int]]]) -> "Block":
        """Make it of pieces, each with the offsets of the times in it."""
        starts = np.cumsum([0, *(len(body) for body, _ in pieces)], dtype=np.int64)
        times = [
            int(start) + offset
            for start, (_, offsets) in zip(starts, pieces, strict=False)
            for offset in offsets
        ]
        body = b"".join(body for body, _ in pieces)
        return cls(body, starts, np.array(times, dtype=np.int64))

    def cut(self, first: int, last: int) -> "Block":
        """Return the pieces from first to before last."""
        begin, end = int(self.starts[first]), int(self.starts[last])
        chosen = self.times[(self.times >= begin) & (self.times < end)]
        return Block(self.body[begin:end], self.starts[first : last + 1] - begin, chosen - begin)


def joined(
    parts: Sequence[tuple[Block, bytes]],
    placeholder: bytes,
    *,
    head: bytes = b"",
    tail: bytes = b"",
) -> Template:
    """Return blocks, each with its entity's name put in, as one batch whose times can be filled."""
    at = len(head)
    offsets: list[npt.NDArray[np.int64]] = []
    bodies = [head]
    for block, name in parts:
        offsets.append(block.times + at)
        bodies.append(block.body.replace(placeholder, name))
        at += len(block.body)
    body = b"".join([*bodies, tail])
    assert len(body) == at + len(tail), "a name is not as long as its placeholder"
    return Template(body, np.concatenate(offsets))
