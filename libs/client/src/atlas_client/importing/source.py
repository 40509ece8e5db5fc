"""Files as record batches: CSV with every cell as text, Parquet with its own types."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from atlas_client.importing.errors import UnreadableFileError

_PARQUET_MAGIC = b"PAR1"
_CSV_BLOCK_BYTES = 1024 * 1024
_PARQUET_BATCH_ROWS = 8192
_HASH_BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A line of a CSV that is no row of its table."""

    row: int
    text: str
    message: str


@dataclass(slots=True)
class Progress:
    """How far a file is read, in any one unit."""

    done: int = 0
    total: int | None = None
    """None: not known (a compressed file)."""


@dataclass(slots=True)
class Rows:
    """Some rows, column by column, as Python values; None is an empty cell."""

    numbers: list[int]
    """The rows' numbers in the file: the first one below the header is 1."""
    columns: dict[str, list[Any]]
    broken: list[BrokenRow] = field(default_factory=list)


class Table(Protocol):
    """A readable file."""

    is_typed: bool
    """Its columns have types of their own; else every cell is text."""
    column_names: list[str]
    """In the file's own order, all different."""

    def read(self, columns: list[str], progress: Progress) -> Iterator[Rows]:
        """Go through the file once, with bounded memory. Raises UnreadableFileError."""


def open_table(path: Path) -> Table:
    """Open a CSV or a Parquet file, told apart by content. Raises UnreadableFileError."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise UnreadableFileError(f"{path}: {error.strerror or error}") from error
    if not start:
        raise UnreadableFileError(f"{path}: the file is empty")
    if start.startswith(_PARQUET_MAGIC):
        return ParquetTable(path)
    is_compressed = path.suffix in {".gz", ".bz2", ".zst", ".lz4"}
    if b"\0" in start and not is_compressed:
        raise UnreadableFileError(f"{path}: neither CSV nor Parquet (it holds NUL bytes)")
    return CsvTable(path, is_compressed=is_compressed)


def content_hash(path: Path) -> bytes:
    """Return the SHA-256 of a file. Raises UnreadableFileError."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise UnreadableFileError(f"{path}: {error.strerror or error}") from error
    return digest.digest()


class CsvTable:
    """A CSV file with a header line, UTF-8."""

    def __init__(self, path: Path, *, is_compressed: bool) -> None:
        self._path = path
        self.is_typed = False
        self._size = None if is_compressed else path.stat().st_size
        with _readable(path), self._open([], _Skipped()) as (reader, _):
            self.column_names: list[str] = reader.schema.names
        doubled = {name for name in self.column_names if self.column_names.count(name) > 1}
        if doubled:
            raise UnreadableFileError(f"{path}: columns named twice: {', '.join(sorted(doubled))}")

    def read(self, columns: list[str], progress: Progress) -> Iterator[Rows]:
        """Go through the file; all cells are text."""
        skipped = _Skipped()
        progress.total = self._size
        number = 0
        with _readable(self._path), self._open(self.column_names, skipped) as (reader, stream):
            for batch in reader:
                numbers = []
                for _ in range(batch.num_rows):
                    number += 1
                    while number in skipped.numbers:
                        number += 1
                    numbers.append(number)
                cells = {name: batch.column(name).to_pylist() for name in columns}
                yield Rows(numbers, cells, skipped.take(number))
                progress.done = min(stream.tell(), self._size or stream.tell())
        if rest := skipped.take(None):
            yield Rows([], {name: [] for name in columns}, rest)

    @contextmanager
    def _open(self, columns: list[str], skipped: "_Skipped") -> Iterator[tuple[Any, Any]]:
        with pa.input_stream(str(self._path), compression="detect") as stream:
            reader = pyarrow.csv.open_csv(
                stream,
                # One thread: with more, skipped rows have no numbers.
                read_options=pyarrow.csv.ReadOptions(
                    use_threads=False, block_size=_CSV_BLOCK_BYTES
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    newlines_in_values=True, invalid_row_handler=skipped.skip
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(columns, pa.string()),
                    # An empty cell is no value; "" is the empty text.
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            with reader:
                yield reader, stream


class _Skipped:
    """Rows that pyarrow could not cut into cells."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self._rows: list[BrokenRow] = []

    def skip(self, invalid: Any) -> str:
        row = invalid.number - 1  # pyarrow counts the header as 1.
        message = f"{invalid.actual_columns} cells where the header has {invalid.expected_columns}"
        self.numbers.add(row)
        self._rows.append(BrokenRow(row, invalid.text, message))
        return "skip"

    def take(self, through: int | None) -> list[BrokenRow]:
        """Hand over the rows up to this number, and forget them."""
        taken = [row for row in self._rows if through is None or row.row <= through]
        self._rows = self._rows[len(taken) :]
        self.numbers.difference_update(row.row for row in taken)
        return taken


class ParquetTable:
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_typed = True
        with _readable(path), pyarrow.parquet.ParquetFile(path) as file:
            self.column_names: list[str] = file.schema_arrow.names
            self._rows = file.metadata.num_rows

    def read(self, columns: list[str], progress: Progress) -> Iterator[Rows]:
        """Go through the file; cells have the types that Python has for the columns'."""
        progress.total = self._rows
        with _readable(self._path), pyarrow.parquet.ParquetFile(self._path) as file:
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS, columns=columns):
                numbers = list(range(progress.done + 1, progress.done + batch.num_rows + 1))
                yield Rows(numbers, {name: _cells(batch.column(name)) for name in columns})
                progress.done += batch.num_rows


def _cells(column: Any) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        # Python's datetimes end at microseconds; finer parts are cut off.
        zone = getattr(column.type, "tz", None)
        column = column.cast(pa.timestamp("us", zone), safe=False)
    cells: list[Any] = column.to_pylist()
    return cells


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        printable = "".join(letter for letter in lines[0] if letter.isprintable())
        raise UnreadableFileError(f"{path}: {printable[:300]}") from error
