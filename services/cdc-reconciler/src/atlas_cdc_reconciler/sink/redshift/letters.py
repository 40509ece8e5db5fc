"""Dead letters as rows of two tables: a letter, and its raw bytes in parts.

Base64 in VARCHAR and not VARBYTE: an event may be larger than any value of Redshift, and this way
its bytes take the road of all other rows.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from atlas_cdc_reconciler.letters import Fault
from atlas_cdc_reconciler.lsn import Lsn
from atlas_cdc_reconciler.sink.redshift.dialect import CHANGE_NUMBER, TEXT_OCTETS_MAX, quoted
from atlas_common.telemetry import logger

LETTERS = "cdc_dead_letters"
PARTS = "cdc_dead_letter_parts"
LETTER_COLUMNS = (
    ("log_offset", "BIGINT"),
    ("commit_lsn", "BIGINT"),
    ("table_name", "VARCHAR(128)"),
    ("kind", "VARCHAR(16)"),
    ("codec", "VARCHAR(32)"),
    ("source_columns", f"VARCHAR({TEXT_OCTETS_MAX})"),
    ("letter_class", "VARCHAR(32)"),
    ("reason", "VARCHAR(4096)"),
    ("buried_us", "BIGINT"),
    ("raw_bytes", "BIGINT"),
)
PART_COLUMNS = (("part", "INTEGER"), ("raw_base64", f"VARCHAR({TEXT_OCTETS_MAX})"))
_log = logger(__name__)
_PART_BYTES = TEXT_OCTETS_MAX // 4 * 3
_REASON_OCTETS_MAX = 4_096


@dataclass(frozen=True, slots=True)
class Buried:
    """A change that becomes a dead letter."""

    number: int
    """Unique among those that are stored together."""
    log_offset: int
    lsn: int
    table: str
    kind: str
    codec: str
    source_columns: str
    fault: Fault
    raw: bytes

    def tell(self) -> None:
        """Log it."""
        _log.error(
            "dead letter",
            table=self.table,
            kind=self.kind,
            commit=str(Lsn(self.lsn)),
            reason=self.fault.reason,
        )


def letters_table(letters: Sequence[Buried], buried_us: int) -> pa.Table:
    """The letters as their staging table has them."""
    rows = [
        {
            CHANGE_NUMBER: letter.number,
            "log_offset": letter.log_offset,
            "commit_lsn": letter.lsn,
            "table_name": letter.table,
            "kind": letter.kind,
            "codec": letter.codec,
            "source_columns": letter.source_columns,
            "letter_class": letter.fault.letter_class.value,
            "reason": _shortened(letter.fault.reason),
            "buried_us": buried_us,
            "raw_bytes": len(letter.raw),
        }
        for letter in letters
    ]
    return pa.Table.from_pylist(rows, _schema(LETTER_COLUMNS))


def parts_table(letters: Iterable[Buried]) -> pa.Table:
    """Their bytes as their staging table has them."""
    rows = [
        {CHANGE_NUMBER: letter.number, "part": part, "raw_base64": text}
        for letter in letters
        for part, text in enumerate(parts_of(letter.raw))
    ]
    return pa.Table.from_pylist(rows, _schema(PART_COLUMNS))


def parts_of(raw: bytes) -> list[str]:
    """Bytes in parts, each by itself Base64."""
    return [
        base64.b64encode(raw[first : first + _PART_BYTES]).decode()
        for first in range(0, len(raw), _PART_BYTES)
    ]


def create_letters() -> tuple[str, str]:
    """The statements that make both tables, unless they are there."""
    return (
        f"CREATE TABLE IF NOT EXISTS {LETTERS} ({_definition(LETTER_COLUMNS)})"
        " DISTSTYLE EVEN SORTKEY(letter_id)",
        f"CREATE TABLE IF NOT EXISTS {PARTS} ({_definition(PART_COLUMNS)})"
        " DISTSTYLE EVEN SORTKEY(letter_id)",
    )


def create_stage(name: str, columns: Sequence[tuple[str, str]]) -> str:
    """The statement that makes a staging table of letters or of parts."""
    defined = ", ".join(f"{quoted(column)} {sql_type}" for column, sql_type in columns)
    return f"CREATE TEMPORARY TABLE {quoted(name)} ({quoted(CHANGE_NUMBER)} BIGINT, {defined})"


def insert(table: str, stage: str, columns: Sequence[tuple[str, str]]) -> str:
    """The statement that stores what is staged; ids go on behind the parameter `newest`."""
    names = ", ".join(quoted(column) for column, _ in columns)
    return (
        f"INSERT INTO {table} (letter_id, {names})"  # noqa: S608
        f" SELECT %(newest)s + 1 + {quoted(CHANGE_NUMBER)}, {names} FROM {quoted(stage)}"
    )


def _definition(columns: Sequence[tuple[str, str]]) -> str:
    defined = ", ".join(f"{quoted(column)} {sql_type} NOT NULL" for column, sql_type in columns)
    return f"letter_id BIGINT NOT NULL, {defined}"


def _schema(columns: Sequence[tuple[str, str]]) -> pa.Schema:
    types = {"BIGINT": pa.int64(), "INTEGER": pa.int32()}
    fields = [(column, types.get(sql_type, pa.string())) for column, sql_type in columns]
    return pa.schema([(CHANGE_NUMBER, pa.int64()), *fields])


def _shortened(reason: str) -> str:
    return reason.encode()[:_REASON_OCTETS_MAX].decode(errors="ignore")
