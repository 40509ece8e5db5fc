"""Which rows have open dead letters, so that later changes of the same row wait behind them.

Within a table with a key, every change of a row waits for the letters of that row. The history has
no key, and to insert and delete rows commutes: there an insert waits only for an update or delete
of its own observation, and those wait for whatever is open of it (ADR 24).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb

from atlas_cdc_reconciler.letters import LetterClass
from atlas_cdc_reconciler.tables import TABLES

_KEYLESS = "an earlier change does not say of which row it is"
_TOTALS = "SELECT count(*), coalesce(sum(octet_length(raw)), 0) FROM cdc_dead_letters"
_HELD = """
    SELECT table_name, arg_min(reason, letter_id), min(chain_id),
        bool_or(letter_class = 'SCHEMA') AS by_schema
    FROM cdc_dead_letters
    WHERE letter_class = 'SCHEMA' OR len(row_keys) = 0
    GROUP BY table_name
"""
_KEYS = """
    SELECT table_name, row_key, min(chain_id), bool_or(kind <> 'INSERT')
    FROM (
        SELECT table_name, unnest(row_keys) AS row_key, chain_id, kind
        FROM cdc_dead_letters WHERE letter_class <> 'SCHEMA')
    GROUP BY table_name, row_key
"""


@dataclass(slots=True)
class Chain:
    """Letters that are applied in order or not at all."""

    chain_id: int | None
    """The number of its first letter; None: that one has none yet."""
    stops_inserts: bool


@dataclass
class TableHolds:
    """The open letters of one table."""

    is_keyed: bool
    held: str | None = None
    """Why all of its changes become letters, if they do."""
    held_class: LetterClass = LetterClass.SCHEMA
    """Of the letters that they become."""
    held_chain: Chain | None = None
    chains: dict[str, Chain] = field(default_factory=dict)
    """By row key."""
    merges: list[tuple[Chain, Chain]] = field(default_factory=list)
    """Chains that a change of two rows joined: the second became part of the first."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing has to wait."""
        return self.held is None and not self.chains

    @property
    def stops_inserts(self) -> bool:
        """Whether an insert might have to wait."""
        return bool(self.chains) and (
            self.is_keyed or any(chain.stops_inserts for chain in self.chains.values())
        )

    def stops(self, keys: Sequence[str], *, is_insert: bool) -> bool:
        """Whether a change of these rows has to wait."""
        for key in keys:
            chain = self.chains.get(key)
            if chain is not None and (self.is_keyed or chain.stops_inserts or not is_insert):
                return True
        return False

    def join(self, keys: Sequence[str], *, is_insert: bool) -> Chain:
        """The chain that a letter of these rows belongs to; made if there is none."""
        found = None
        for key in keys:
            chain = self.chains.get(key)
            if chain is None or chain is found:
                continue
            if found is None:
                found = chain
            else:
                self._merge(found, chain)
        if found is None:
            found = Chain(None, stops_inserts=False)
        found.stops_inserts |= not is_insert
        for key in keys:
            self.chains[key] = found
        return found

    def hold(self, reason: str, letter_class: LetterClass) -> None:
        """From now on all changes of the table become letters."""
        self.held, self.held_class = reason, letter_class
        self.held_chain = Chain(None, stops_inserts=True)

    def _merge(self, into: Chain, chain: Chain) -> None:
        into.stops_inserts |= chain.stops_inserts
        self.merges.append((into, chain))
        for key, other in self.chains.items():
            if other is chain:
                self.chains[key] = into


@dataclass
class Holds:
    """The open letters of all tables."""

    tables: dict[str, TableHolds]
    letter_count: int = 0
    byte_count: int = 0

    @classmethod
    def none(cls) -> "Holds":
        """Nothing is open."""
        return cls({name: TableHolds(bool(table.key)) for name, table in TABLES.items()})

    @classmethod
    def load(cls, connection: duckdb.DuckDBPyConnection) -> "Holds":
        """What is open in the warehouse."""
        holds = cls.none()
        row = connection.execute(_TOTALS).fetchone() or (0, 0)
        holds.letter_count, holds.byte_count = int(row[0]), int(row[1])
        if holds.letter_count == 0:
            return holds
        for name, reason, chain_id, by_schema in connection.execute(_HELD).fetchall():
            table = holds.table(name)
            if by_schema or table.is_keyed:
                letter_class = LetterClass.SCHEMA if by_schema else LetterClass.WAITING
                table.held, table.held_class = reason, letter_class
                table.held_chain = Chain(chain_id, stops_inserts=True)
        by_id: dict[tuple[str, int], Chain] = {}
        for name, key, chain_id, stops_inserts in connection.execute(_KEYS).fetchall():
            chain = by_id.setdefault((name, chain_id), Chain(chain_id, stops_inserts=False))
            chain.stops_inserts |= stops_inserts
            holds.table(name).chains[key] = chain
        return holds

    def table(self, name: str) -> TableHolds:
        """Those of one table, whether or not the warehouse knows it."""
        return self.tables.setdefault(name, TableHolds(is_keyed=True))


def keyless_reason() -> str:
    """Why a table is held whose letter names no row."""
    return _KEYLESS
