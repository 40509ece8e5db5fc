"""The store of reports: what runs found, kept for a while."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from atlas_cdc_reconciler.canonical import shortened
from atlas_cdc_reconciler.catalog_comparison import TableComparison
from atlas_cdc_reconciler.differences import Difference, DifferenceKind, Version
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse, Parameters
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.table_columns import columns_of, table_of
from atlas_common.tenant import Tenant

_DAY_SECONDS = 86_400.0


class Cause(StrEnum):
    """Why there was a run."""

    CALL = "call"
    CONTINUOUS = "continuous"
    REPAIR = "repair"


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found. Times in microseconds since 1970."""

    report_id: int
    cause: Cause
    made_at_us: int
    """By the warehouse's clock."""
    through_us: int
    windows_compared: int
    windows_mismatched: int
    is_complete: bool
    """False: more rows differ than are named."""
    difference_count: int
    """Of rows of the history."""
    tables: tuple[TableComparison, ...] = ()
    """Those of the catalog that differed."""


class ReportStore:
    """Keeps reports in the warehouse's file, so many and so long."""

    def __init__(self, warehouse: DuckDbWarehouse, reports_max: int, days_max: float) -> None:
        self._warehouse = warehouse
        self._reports_max = reports_max
        self._seconds_max = days_max * _DAY_SECONDS

    async def keep(
        self,
        tenant: Tenant,
        differences: Sequence[Difference],
        tables: Sequence[TableComparison] = (),
        *,
        cause: Cause,
        through_us: int,
        windows_compared: int = 0,
        windows_mismatched: int = 0,
        is_complete: bool = True,
    ) -> int:
        """Keep a report; returns its number. Old ones of the tenant make room.

        `tables`: those of the catalog that differ.
        """
        # Numbers are given by this process alone, and runs of one tenant do not overlap.
        async with self._warehouse.reader() as reader:
            ((report_id,),) = await reader.all(Q["next_report"])
        of_tenant = {"tenant_id": tenant.id}
        statements: list[tuple[str, Parameters]] = [
            (
                Q["keep_report"],
                {
                    **of_tenant,
                    "report_id": report_id,
                    "cause": cause.value,
                    "through": through_us,
                    "windows_compared": windows_compared,
                    "windows_mismatched": windows_mismatched,
                    "is_complete": is_complete,
                },
            )
        ]
        if differences:
            lists = {**of_tenant, "report_id": report_id, **_lists(differences)}
            statements.append((Q["keep_differences"], lists))
        statements += (
            (Q["keep_table"], {**of_tenant, "report_id": report_id, **columns_of(table)})
            for table in tables
        )
        bounds = {"reports_max": self._reports_max, "seconds_max": self._seconds_max}
        statements.append((Q["expire_reports"], {**of_tenant, **bounds}))
        statements.append((Q["expire_differences"], of_tenant))
        statements.append((Q["expire_tables"], of_tenant))
        await self._warehouse.write(statements)
        return int(report_id)

    async def get(
        self, tenant: Tenant, report_id: int, *, after: int, differences_max: int
    ) -> tuple[Report, list[Difference]] | None:
        """A report of the tenant's, 0: the newest, and its differences after number `after`.

        The catalog's tables come with the first of them.
        """
        wanted = {"tenant_id": tenant.id, "report_id": report_id}
        async with self._warehouse.reader() as reader:
            rows = await reader.all(Q["report"], wanted)
            if not rows:
                return None
            number, cause, *others = rows[0]
            page = {
                "tenant_id": tenant.id,
                "report_id": number,
                "after": after,
                "differences_max": differences_max,
            }
            found = await reader.all(Q["differences"], page)
            tables = []
            if after == 0:
                tables = await reader.all(Q["tables"], {**wanted, "report_id": number})
        report = replace(Report(number, Cause(cause), *others), tables=tuple(map(table_of, tables)))
        return report, [_difference(*row) for row in found]


def _lists(differences: Sequence[Difference]) -> Parameters:
    return {
        "numbers": list(range(1, len(differences) + 1)),
        "kinds": [one.kind.value for one in differences],
        "entity_ids": [one.entity_id for one in differences],
        "attribute_ids": [one.attribute_id for one in differences],
        "event_times": [one.event_us for one in differences],
        "ingest_times": [one.ingested_us for one in differences],
        "source_qualities": [_quality(one.source) for one in differences],
        "source_values": [_value(one.source) for one in differences],
        "warehouse_qualities": [_quality(one.warehouse) for one in differences],
        "warehouse_values": [_value(one.warehouse) for one in differences],
        "copies": [one.copies for one in differences],
    }


def _quality(version: Version | None) -> int | None:
    return None if version is None else version.quality


def _value(version: Version | None) -> str | None:
    return None if version is None else shortened(version.value)


def _difference(  # noqa: PLR0917 - the columns of a row.
    kind: str,
    entity_id: int,
    attribute_id: int,
    event_us: int,
    ingested_us: int,
    source_quality: int | None,
    source_value: str | None,
    warehouse_quality: int | None,
    warehouse_value: str | None,
    copies: int,
) -> Difference:
    return Difference(
        DifferenceKind(kind),
        entity_id,
        attribute_id,
        event_us,
        ingested_us,
        _version(source_quality, source_value),
        _version(warehouse_quality, warehouse_value),
        copies,
    )


def _version(quality: int | None, value: str | None) -> Version | None:
    return None if quality is None or value is None else Version(quality, value)
