"""A session with the cluster. It blocks: everything here runs in the writer's thread."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import redshift_connector
from redshift_connector.error import Error, InterfaceError, OperationalError

from atlas_cdc_reconciler.config import RedshiftConfig
from atlas_cdc_reconciler.sink import WarehouseError
from atlas_cdc_reconciler.sink.redshift.dialect import STATEMENT_OCTETS_MAX, quoted
from atlas_common.telemetry import logger

Rows = list[tuple[Any, ...]]
# Error 1023 of a cluster; the SQLSTATE is what PostgreSQL calls the same.
_CONFLICTS = ("1023", "Serializable isolation violation")
_CONFLICT_STATES = frozenset({"40001", "40P01"})
_log = logger(__name__)


class ConflictError(WarehouseError):
    """The transaction met another that wrote the same: nothing is stored, it can be repeated."""


class Session:
    """One connection, made when it is needed and again after it was lost."""

    def __init__(self, config: RedshiftConfig) -> None:
        self._config = config
        self._connection: Any = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block does, or nothing of it. Raises as `run`.

        An error out of the commit itself leaves open whether it happened: the position tells.
        """
        self.run("BEGIN")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def run(self, statement: str, parameters: Mapping[str, object] | None = None) -> Rows:
        """Run a statement; returns its rows, if it has any.

        Raises ConflictError, and WarehouseError for everything else that the cluster says.
        """
        if len(statement.encode()) > STATEMENT_OCTETS_MAX:
            raise WarehouseError(f"a statement of over {STATEMENT_OCTETS_MAX} bytes")
        try:
            cursor = self._connected().cursor()
            cursor.paramstyle = "pyformat"
            cursor.execute(statement, dict(parameters) if parameters else None)
            rows = cursor.fetchall() if cursor.description else ()
            return [tuple(row) for row in rows]
        except (InterfaceError, OperationalError, OSError) as error:
            self.close()
            raise WarehouseError(f"Redshift is out of reach: {error}") from error
        except Error as error:
            raise _translated(error) from error

    def close(self) -> None:
        """End the session; its staging tables and its open transaction go with it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Error, OSError):
                connection.close()

    def _connected(self) -> Any:
        if self._connection is None:
            config = self._config
            connection = redshift_connector.connect(
                host=config.host,
                port=config.port,
                database=config.database,
                user=config.user,
                password=config.password.get_secret_value(),
                ssl=config.tls,
                sslmode="verify-full",  # Left out, the driver tolerates another server's name.
                timeout=config.socket_timeout_seconds,
                application_name="atlas-cdc-reconciler",
            )
            connection.autocommit = True  # Transactions begin and end where we say so.
            self._connection = connection
            self.run(f"SET statement_timeout TO {int(config.statement_timeout_seconds * 1000)}")
            self.run(f"SET search_path TO {quoted(config.schema_name)}")
        return self._connection

    def _roll_back(self) -> None:
        if self._connection is None:
            return
        try:
            self.run("ROLLBACK")
        except WarehouseError as error:
            _log.warning("rolling back failed", error=str(error))
            self.close()


def _translated(error: Exception) -> WarehouseError:
    told = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    state, message = str(told.get("C", "")), str(told.get("M", error))
    text = f"Redshift: {message} (SQLSTATE {state})" if state else f"Redshift: {message}"
    conflict = state in _CONFLICT_STATES or any(mark in message for mark in _CONFLICTS)
    return ConflictError(text) if conflict else WarehouseError(text)
