"""The store of the source's rows as they are re-emitted: whole, in the warehouse's columns."""

import pyarrow as pa
from psycopg import sql

from atlas_cdc_reconciler.columns import FieldError, table_from
from atlas_cdc_reconciler.source.copy import CopyColumns
from atlas_cdc_reconciler.tables import HISTORY
from atlas_cdc_reconciler.windows import Span
from atlas_common import errors
from atlas_common.db import Database, Isolation, tenant_transaction
from atlas_common.tenant import Tenant
from atlas_common.values import us_to_datetime

_COPY = sql.SQL(
    "COPY (SELECT {columns} FROM entity_values_ts WHERE tenant_id = {tenant_id}"
    " AND ingested_at >= {start} AND ingested_at < {stop}) TO STDOUT (FORMAT BINARY)"
)


class SourceRows:
    """Reads the primary, within the tenant's own rows."""

    def __init__(self, database: Database, statement_timeout_seconds: float, rows_max: int) -> None:
        self._database = database
        self._timeout_ms = round(statement_timeout_seconds * 1000)
        self._rows_max = rows_max

    async def of(self, tenant: Tenant, span: Span) -> pa.Table:
        """All rows of a span, of one snapshot.

        Raises ServiceError FAILED_PRECONDITION where they are too many to be held, or the
        warehouse cannot hold one of them; psycopg.Error.
        """
        copy = _COPY.format(
            columns=sql.SQL(", ").join(map(sql.Identifier, HISTORY.column_names)),
            tenant_id=sql.Literal(tenant.id),
            start=sql.Literal(us_to_datetime(span.start_us)),
            stop=sql.Literal(us_to_datetime(span.stop_us)),
        )
        gathered = CopyColumns(len(HISTORY.columns))
        async with tenant_transaction(
            self._database, tenant, read_only=True, isolation=Isolation.REPEATABLE_READ
        ) as connection:
            await connection.execute(f"SET LOCAL statement_timeout = {self._timeout_ms}".encode())
            async with connection.cursor() as cursor, cursor.copy(copy) as data:
                async for piece in data:
                    gathered.feed(bytes(piece))
                    if gathered.row_count > self._rows_max:
                        raise _cannot(span, f"it has more than {self._rows_max} rows")
        try:
            fields = zip(HISTORY.columns, gathered.take(), strict=True)
            return table_from({column.name: (column.type, values) for column, values in fields})
        except FieldError as error:
            raise _cannot(span, f"the warehouse cannot hold a row of it: {error}") from error


def _cannot(span: Span, why: str) -> errors.ServiceError:
    start = us_to_datetime(span.start_us).isoformat()
    return errors.failed_precondition(
        "WINDOW_NOT_REPAIRABLE", f"the window of {start} cannot be repaired: {why}", window=start
    )
