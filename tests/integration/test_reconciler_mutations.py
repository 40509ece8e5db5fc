"""The reconciler itself is put to the test: whatever is wrong with a row, it is found and healed.

For each type of value, on either side: one bit is flipped, a row dropped, one added, two values
swapped between rows, a pair of rows doubled. Each is named exactly, nothing else is, and after the
repair both sides are equal.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from psycopg.types.json import Jsonb

from atlas_cdc_reconciler.canonical import tagged
from atlas_cdc_reconciler.differences import Difference, DifferenceKind, Version
from atlas_common.values import DataType, Scalar, datetime_to_us
from atlas_devstack.database import Database

from .lane_writer import Flushed, RawPoint
from .reconciler_rig import ACME, GLOBEX, T0, Rig, Running, make_rig, points_of_all_types

ATTRIBUTE_ID = 77
ADDED_TIME = T0 + timedelta(seconds=1)


@dataclass(frozen=True)
class Values:
    """Two values of a type as both sides take them, and the first with one bit flipped."""

    first: Any
    second: Any
    flipped: Any


def _flipped_double(value: float) -> float:
    return float((np.array([value]).view("u8") ^ 1).view("f8")[0])


VALUES = {
    DataType.BOOL: Values(True, False, False),
    DataType.INT: Values(2**62, -(2**63), 2**62 ^ 1),
    DataType.DOUBLE: Values(0.1, -0.0, _flipped_double(0.1)),
    DataType.DECIMAL: Values(
        Decimal("99999999999999999999.999999999999999998"),
        Decimal("-0.000000000000000001"),
        Decimal("99999999999999999999.999999999999999999"),
    ),
    DataType.TEXT: Values("12|3 Ünï 🛰", "", "12|3 Ünï 🛱"),
    DataType.TIME: Values(
        datetime(2026, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(2026, 2, 3, 4, 5, 6, 789_013, tzinfo=UTC),
    ),
    DataType.JSON: Values('{"a": [1, 2.50]}', "null", '{"a": [0, 2.50]}'),
}


class Side:
    """One of the copies, changed behind the other's back."""

    def __init__(self, rig: Rig, running: Running, name: str, data_type: DataType) -> None:
        self._rig = rig
        self._running = running
        self._type = data_type
        self.is_source = name == "source"
        self._column = f"value_{data_type}"

    async def set(self, entity_id: int, value: Any) -> None:
        """Give an entity's row another value."""
        await self._do(
            f"UPDATE entity_values_ts SET {self._column} = {{value}} WHERE {{row}}",
            entity_id,
            value,
        )

    async def drop(self, entity_id: int) -> None:
        """Drop an entity's row."""
        await self._do("DELETE FROM entity_values_ts WHERE {row}", entity_id)

    async def double(self, entity_id: int) -> None:
        """Store an entity's row once more."""
        sql = "INSERT INTO entity_values_ts SELECT * FROM entity_values_ts WHERE {row}"
        await self._do(sql, entity_id)

    async def add(self, entity_id: int) -> None:
        """Store an entity's row at another event time."""
        columns = (
            "tenant_id, attribute_id, entity_id, event_time, ingested_at, value_int, value_double,"
            " value_time, quality, value_bool, value_decimal, value_text, value_json"
        )
        selected = columns.replace("event_time", "event_time + INTERVAL '1 second'")
        sql = f"INSERT INTO entity_values_ts ({columns}) SELECT {selected} FROM entity_values_ts"
        await self._do(f"{sql} WHERE {{row}}", entity_id)

    async def _do(self, sql: str, entity_id: int, value: Any = None) -> None:
        row = f"tenant_id = 1 AND attribute_id = {ATTRIBUTE_ID} AND entity_id = {entity_id}"
        if self.is_source:
            if self._type is DataType.JSON and value is not None:
                value = value.encode()  # As it comes from the network, not as a JSON string.
            statement = sql.format(row=row, value="convert_from(%(value)s, 'UTF8')::jsonb")
            if self._type is not DataType.JSON:
                statement = sql.format(row=row, value="%(value)s")
            with self._rig.unseen():
                cursor = self._rig.admin.execute(statement.encode(), {"value": value})
                assert cursor.rowcount == 1
            return
        parameters = {} if value is None else {"value": value}
        await self._running.warehouse.write([(sql.format(row=row, value="$value"), parameters)])


@dataclass(frozen=True)
class Case:
    """What a mutation needs to know."""

    side: Side
    data_type: DataType
    values: Values
    ingested_us: int

    def version(self, value: Any) -> Version:
        scalar: Scalar = datetime_to_us(value) if self.data_type is DataType.TIME else value
        return Version(0, tagged(self.data_type, scalar))

    def changed(self, entity_id: int, before: Any, after: Any) -> Difference:
        """A row of which this side has another version."""
        ours, theirs = self.version(after), self.version(before)
        source, warehouse = (ours, theirs) if self.side.is_source else (theirs, ours)
        return self._difference(DifferenceKind.DIFFERENT, entity_id, T0, source, warehouse)

    def only_here(self, entity_id: int, value: Any, event_time: datetime = T0) -> Difference:
        """A row that this side has and the other one has not."""
        version = self.version(value)
        if self.side.is_source:
            return self._difference(DifferenceKind.MISSING, entity_id, event_time, version, None)
        return self._difference(DifferenceKind.EXTRA, entity_id, event_time, None, version)

    def only_there(self, entity_id: int, value: Any) -> Difference:
        """A row that the other side has and this one has not."""
        version = self.version(value)
        if self.side.is_source:
            return self._difference(DifferenceKind.EXTRA, entity_id, T0, None, version)
        return self._difference(DifferenceKind.MISSING, entity_id, T0, version, None)

    def _difference(
        self,
        kind: DifferenceKind,
        entity_id: int,
        event_time: datetime,
        source: Version | None,
        warehouse: Version | None,
    ) -> Difference:
        event_us = datetime_to_us(event_time)
        return Difference(
            kind, entity_id, ATTRIBUTE_ID, event_us, self.ingested_us, source, warehouse
        )


Mutation = Callable[[Case], Awaitable[list[Difference]]]


async def flip(case: Case) -> list[Difference]:
    await case.side.set(1, case.values.flipped)
    return [case.changed(1, case.values.first, case.values.flipped)]


async def drop(case: Case) -> list[Difference]:
    await case.side.drop(2)
    return [case.only_there(2, case.values.second)]


async def add(case: Case) -> list[Difference]:
    await case.side.add(1)
    return [case.only_here(1, case.values.first, ADDED_TIME)]


async def swap(case: Case) -> list[Difference]:
    first, second = case.values.first, case.values.second
    await case.side.set(1, second)
    await case.side.set(2, first)
    return [case.changed(1, first, second), case.changed(2, second, first)]


async def double_a_pair(case: Case) -> list[Difference]:
    await case.side.double(1)
    await case.side.double(2)
    return [case.only_here(1, case.values.first), case.only_here(2, case.values.second)]


MUTATIONS: tuple[Mutation, ...] = (flip, drop, add, swap, double_a_pair)


@pytest.fixture
def rig(module_database: Database, tmp_path: Path) -> Iterator[Rig]:
    with make_rig(module_database, tmp_path) as rig:
        yield rig


def write_values(rig: Rig, data_type: DataType, values: Values) -> Flushed:
    """Both values for two entities of both tenants, among rows of all types."""
    with rig.writer() as writer:
        raw = [
            RawPoint(
                tenant.id,
                entity_id,
                ATTRIBUTE_ID,
                T0,
                Jsonb(None) if data_type is DataType.JSON else value,
                f"value_{data_type}",
            )
            for tenant in (ACME, GLOBEX)
            for entity_id, value in ((1, values.first), (2, values.second))
        ]
        others = [*points_of_all_types(ACME.id), *points_of_all_types(GLOBEX.id)]
        flushed = writer.write([*raw, *others])
    if data_type is DataType.JSON:  # As texts, since psycopg would write them its own way.
        for entity_id, text in ((1, values.first), (2, values.second)):
            rig.admin.execute(
                "UPDATE entity_values_ts SET value_json = %s::jsonb"
                " WHERE attribute_id = %s AND entity_id = %s",
                [text, ATTRIBUTE_ID, entity_id],
            )
    return flushed


@pytest.mark.parametrize("side", ["source", "warehouse"])
@pytest.mark.parametrize("data_type", DataType)
async def test_every_mutation_is_found_named_and_healed(
    rig: Rig, data_type: DataType, side: str
) -> None:
    values = VALUES[data_type]
    flushed = write_values(rig, data_type, values)
    async with rig.running() as running:
        rows, outcome = await running.findings(ACME)
        assert rows == []
        assert outcome.windows_mismatched == 0
        for mutate in MUTATIONS:
            case = Case(
                Side(rig, running, side, data_type),
                data_type,
                values,
                datetime_to_us(flushed.flushed_at),
            )
            wanted = await mutate(case)
            rows, outcome = await running.findings(ACME)
            assert rows == wanted, mutate.__name__
            kept = await running.reports.get(ACME, 0, after=0, differences_max=100)
            assert kept is not None
            assert (kept[0].report_id, kept[1]) == (outcome.report_id, wanted)
            (repaired,), done = await running.repair(ACME)
            assert repaired.is_equal
            assert list(repaired.found.differences) == wanted
            assert (done.windows_mismatched, done.windows_repaired) == (1, 1)
            rows, outcome = await running.findings(ACME)
            assert rows == []
            assert outcome.source == outcome.warehouse
            if side == "source":
                # What was done to it stands, and is the truth now: the next one begins from there.
                restore(rig, data_type, values, flushed)
        rows, outcome = await running.findings(GLOBEX)
        assert rows == []
        assert outcome.windows_mismatched == 0


def restore(rig: Rig, data_type: DataType, values: Values, flushed: Flushed) -> None:
    """Write the source's rows as they were, by ordinary corrections that the stream tells of."""
    with rig.admin.transaction():
        rig.admin.execute(
            "DELETE FROM entity_values_ts WHERE tenant_id = 1 AND attribute_id = %s", [ATTRIBUTE_ID]
        )
        for entity_id, value in ((1, values.first), (2, values.second)):
            cast = "::jsonb" if data_type is DataType.JSON else ""
            rig.admin.execute(
                "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time,"
                f" ingested_at, value_{data_type}) VALUES (1, %s, %s, %s, %s, %s{cast})",
                [ATTRIBUTE_ID, entity_id, T0, flushed.flushed_at, value],
            )
