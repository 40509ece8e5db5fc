"""The same rows through Debezium: its engine, a broker, the Kafka source, and the same sink.

Both ways begin with a backlog of the same rows in the same log: Debezium's is worked off by its
engine and a cdc-reconciler of its own, then the slot's by the one under test. Neither runs beside
the other.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from atlas_bench.cdc import history
from atlas_bench.cdc.backlog import parts, watched
from atlas_bench.cdc.rig import Rig, status_of
from atlas_bench.errors import BenchError
from atlas_bench.progress import say
from atlas_cdc_reconciler.tables import TABLES
from atlas_devstack.credentials import Credentials
from atlas_devstack.debezium import Capture, Debezium, DebeziumSite
from atlas_devstack.errors import DevstackError
from atlas_devstack.kafka import Kafka, KafkaSite
from atlas_devstack.platform import ROLES, SERVICES
from atlas_devstack.services import Service, Wiring
from atlas_devstack.waiting import Patience, wait_until

_TOPIC, _SLOT = "bench-cdc", "bench_debezium"
_NAME = "debezium-side"
_READY_SECONDS_MAX = 120.0


@dataclass(frozen=True)
class _Side:
    """The way through Debezium."""

    engine: Debezium
    reconciler: Service


def measure(rig: Rig) -> list[dict[str, Any]]:
    """Measure both ways, one after the other. Raises BenchError."""
    options = rig.options
    rig.settle()
    before = rig.status().applied_total
    with _side(rig) as side:
        applied = status_of(side.reconciler.target).applied_total
        side.engine.stop()
        rig.stop_reconciler()
        say(f"  writing {options.debezium_rows:,} rows for Debezium and the slot")
        written = history.fill(rig, options.debezium_rows)
        side.engine.start()
        target = side.reconciler.target
        sights = watched(rig, lambda: status_of(target), applied, written)
        runs = parts(sights, options.repeats, "debezium")
    rig.reconciler.launch()
    runs += parts(watched(rig, rig.status, before, written), options.repeats, "slot")
    for kind in ("debezium", "slot"):
        for run in (run for run in runs if run["kind"] == kind):
            say(f"  {run['repeat']:>2} {kind:<8} {run['rows_per_s']:>12,.0f} rows/s")
    return runs


@contextmanager
def _side(rig: Rig) -> Iterator[_Side]:
    """Broker, engine and reconciler, which have made their first copy."""
    state, patience = rig.stack.state, Patience(timeout_seconds=_READY_SECONDS_MAX)
    base = state.path / _NAME
    for name in ("run", "logs"):
        (base / name).mkdir(parents=True, exist_ok=True)
    ports = state.ports([_NAME, f"{_NAME}-kafka"])
    with ExitStack() as undo:
        try:
            broker = Kafka(
                KafkaSite(base, base / "logs", base / "run", ports[f"{_NAME}-kafka"]), patience
            )
            undo.callback(broker.stop)
            broker.start()
            broker.create_topic(_TOPIC)
            capture = Capture(
                dsn=rig.stack.endpoints.primary,
                tables=tuple(TABLES),
                bootstrap_servers=broker.bootstrap_servers,
                topic=_TOPIC,
                slot=_SLOT,
            )
            engine = Debezium(DebeziumSite(base, base / "logs", base / "run"), capture, patience)
            undo.callback(engine.forget)
            undo.callback(engine.stop)
            engine.start()
            wiring = Wiring(
                database=rig.stack.database,
                replicas={},
                valkey_url=None,
                credentials=Credentials.load_or_make(state.secrets_file, ROLES),
                ports={**dict.fromkeys(SERVICES, 0), "cdc-reconciler": ports[_NAME]},
                warehouse=base / "warehouse.duckdb",
                log_directory=base / "logs",
                run_directory=base / "run",
                spans=False,
            )
            environment = {
                "ATLAS_SOURCE__KIND": "kafka",
                "ATLAS_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
                "ATLAS_KAFKA__TOPIC": _TOPIC,
                "ATLAS_RECONCILE__INTERVAL_SECONDS": "0",
            }
            reconciler = Service(SERVICES["cdc-reconciler"], wiring, environment, patience)
            undo.callback(reconciler.stop)
            reconciler.start()
            wait_until(
                lambda: status_of(reconciler.target).phase == "streaming",
                "Debezium's first copy",
                patience=patience,
            )
        except DevstackError as error:
            raise BenchError(f"the way through Debezium did not start: {error}") from error
        yield _Side(engine, reconciler)
