"""Rows of a binary COPY, as columns; pure, no I/O. https://www.postgresql.org/docs/current/sql-copy.html"""

from atlas_cdc_reconciler.columns import Field

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
