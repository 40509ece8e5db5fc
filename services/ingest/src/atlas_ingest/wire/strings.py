"""Columns of text out of a message's bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atlas_ingest.arrow import texts
from atlas_ingest.wire.cursors import Spans

Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Strings:
    """Columns one behind the other in a pa.StringArray.

    `bounds`: where each begins, and where the last one ends. None is empty.
    """

    array: Any
    bounds: list[int]

    def column(self, number: int) -> Any:
        """A column, as a pa.StringArray."""
        begin, end = self.bounds[number : number + 2]
        return self.array.slice(begin, end - begin)

    def text_bytes(self, number: int) -> int:
        """Of all texts of a column."""
        offsets = np.frombuffer(self.array.buffers()[1], dtype=np.int32)
        begin, end = self.bounds[number : number + 2]
        return int(offsets[end] - offsets[begin])

    def distinct(self, count: int) -> list[tuple[Ints, Any]]:
        """Of the first columns what texts.distinct() has.

        All are encoded at once: a call costs more than what there is to do in it. Codes are given
        as texts turn up, so those that a column has and none before it has are next to each other.
        """
        encoded = self.array.slice(0, self.bounds[count]).dictionary_encode()
        codes = encoded.indices.to_numpy().astype(np.int64)
        columns = []
        seen = 0
        for number, begin in enumerate(self.bounds[:count]):
            own = codes[begin : self.bounds[number + 1]]
            least, most = int(own.min()), int(own.max())
            if least >= seen:
                columns.append((own - seen, encoded.dictionary.slice(seen, most + 1 - seen)))
            else:  # It has texts of a column before it.
                columns.append(texts.distinct(self.column(number)))
            seen = max(seen, most + 1)
        return columns


def strings_of(data: Any, spans: Sequence[Spans], columns: Sequence[tuple[int, Ints]]) -> Strings:
    """Columns of text: each the stretches that one of the spans has in some rows.

    `spans`: fields, in their order in each message. `columns`: indexes of one, and rows.

    All stretches, with what lies between them, make an array without any copying. Those that are
    wanted are taken out of it.
    """
    step = 2 * len(spans)
    offsets = np.zeros(len(spans[0].starts) * step + 1, dtype=np.int32)
    for index, each in enumerate(spans):
        offsets[2 * index + 1 :: step] = each.starts
        offsets[2 * index + 2 :: step] = each.ends
    count = len(offsets) - 1
    everything = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), data)
    wanted = np.concatenate([rows * step + (2 * index + 1) for index, rows in columns])
    bounds = np.cumsum([0, *(len(rows) for _, rows in columns)]).tolist()
    return Strings(everything.take(pa.array(wanted)), bounds)
