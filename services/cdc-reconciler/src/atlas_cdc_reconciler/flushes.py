"""Which flushes a batch of changes brings: for its span, which links to theirs. Pure."""

from collections.abc import Iterator

from atlas_cdc_reconciler.changes import Batch, ChangeKind, Run
from atlas_cdc_reconciler.tables import ColumnType
from atlas_common.token import Position

_TABLE = "flush_positions"
_COLUMNS = {"lane": ColumnType.INT2, "epoch": ColumnType.INT8, "sequence": ColumnType.INT8}


def flushes_of(batch: Batch) -> Iterator[Position]:
    """The positions that it moves lanes to, in the order of the log.

    Raises ValueError, as the codec of the source does, for what it cannot read.
    """
    for run in batch.runs:
        if run.relation.name == _TABLE and run.kind is ChangeKind.UPDATE:
            yield from _positions(run)


def _positions(run: Run) -> Iterator[Position]:
    names = [column.name for column in run.relation.columns]
    rows = [run.relation.codec.update(raw, run.relation)[1] for raw in run.raws]
    columns = [
        run.relation.codec.to_arrow(kind, [row[names.index(name)] for row in rows]).to_pylist()
        for name, kind in _COLUMNS.items()
    ]
    for lane, epoch, sequence in zip(*columns, strict=True):
        yield Position(lane, epoch, sequence)
