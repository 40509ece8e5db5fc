"""Rows of a binary COPY, as columns; pure, no I/O. https://www.postgresql.org/docs/current/sql-copy.html"""

from collections.abc import Hashable, Sequence

import pyarrow as pa

from atlas_cdc_reconciler.changes import Codec, MessageError, Relation, Row, SourceColumn
from atlas_cdc_reconciler.columns import Field, table_from, to_arrow
from atlas_cdc_reconciler.tables import Column, ColumnType, Table

_SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
_HEADER_BYTES = len(_SIGNATURE) + 8
_END = b"\xff\xff"


class CopyColumns:
    """Collects the rows of one COPY column by column."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.columns: list[list[Field]] = [[] for _ in range(count)]
        self.row_count = 0

    def feed(self, data: bytes) -> None:
        """Take in one message of COPY data: the server never cuts a row. Raises ValueError."""
        offset = _HEADER_BYTES if data.startswith(_SIGNATURE) else 0
        while offset < len(data):
            mark = data[offset : offset + 2]
            if mark == _END:
                return
            if int.from_bytes(mark, "big") != self._count:
                raise ValueError(f"a row that does not have {self._count} columns")
            offset += 2
            for column in self.columns:
                size = int.from_bytes(data[offset : offset + 4], "big", signed=True)
                offset += 4
                if size < 0:
                    column.append(None)
                    continue
                column.append(data[offset : offset + size])
                offset += size
            self.row_count += 1

    def row(self, number: int) -> bytes:
        """A row of those gathered, as the COPY had it."""
        fields = [column[number] for column in self.columns]
        return self._count.to_bytes(2, "big") + b"".join(
            b"\xff\xff\xff\xff" if field is None else len(field).to_bytes(4, "big") + field
            for field in fields
        )

    def take(self) -> list[list[Field]]:
        """The columns gathered since the last time."""
        taken = self.columns
        self.columns = [[] for _ in range(self._count)]
        self.row_count = 0
        return taken


class _Copy:
    """As Codec, for single rows: those of the first copy that became dead letters."""

    name = "copy"

    def insert_table(
        self, raws: Sequence[bytes], relation: Relation, columns: Sequence[tuple[Column, int]]
    ) -> pa.Table:
        rows = [self.insert(raw, relation) for raw in raws]
        return table_from(
            {column.name: (column.type, [row[at] for row in rows]) for column, at in columns}
        )

    def insert(self, raw: bytes, relation: Relation) -> Row:
        row = CopyColumns(len(relation.columns))
        try:
            row.feed(raw)
        except ValueError as error:
            raise MessageError(str(error)) from error
        if row.row_count != 1:
            raise MessageError(f"{row.row_count} rows where one belongs")
        return [column[0] for column in row.columns]

    def update(self, _raw: bytes, _: Relation) -> tuple[Row | None, Row]:
        raise MessageError("a copy has no updates")

    def delete(self, _raw: bytes, _: Relation) -> Row:
        raise MessageError("a copy has no deletes")

    def to_arrow(self, column_type: ColumnType, fields: Sequence[Hashable]) -> pa.Array:
        return to_arrow(column_type, fields)  # type: ignore[arg-type]  # They are ours: bytes.


CODEC: Codec = _Copy()


def relation(table: Table) -> Relation:
    """How the rows of a copy of the table are to be read."""
    columns = tuple(
        SourceColumn(column.name, column.type.oid, column.name in table.key)
        for column in table.columns
    )
    return Relation(0, "", table.name, columns, CODEC)
