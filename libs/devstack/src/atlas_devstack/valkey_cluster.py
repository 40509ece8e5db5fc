"""A Valkey cluster: masters that share the slots, a replica of each."""

import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from atlas_devstack.errors import DevstackError
from atlas_devstack.ports import LOOPBACK, free_port
from atlas_devstack.valkey import Valkey, ValkeySite
from atlas_devstack.waiting import Patience, wait_until

MASTERS = 3
_SLOTS = 16_384
_NODE_TIMEOUT_MS = 1_000


class ValkeyCluster:
    """Six servers. The first half are the masters at first, each has a replica in the second."""

    def __init__(self, directory: Path, patience: Patience) -> None:
        self._directory = directory
        self._patience = patience
        self._password = secrets.token_hex(8)
        taken: set[int] = set()
        self._buses: dict[int, int] = {}
        self.nodes = [self._node(number, taken) for number in range(2 * MASTERS)]

    @property
    def url(self) -> str:
        """As hotcache takes it."""
        hosts = ",".join(f"{LOOPBACK}:{node.port}" for node in self.nodes[:MASTERS])
        return f"redis+cluster://:{self._password}@{hosts}"

    def start(self) -> None:
        """Start all and share out the slots; returns when every node calls the cluster whole."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_ready()
        for number, node in enumerate(self.nodes):
            self.ask(node, "CLUSTER SET-CONFIG-EPOCH", str(number + 1))
        for node in self.nodes[1:]:  # They tell each other of the rest.
            bus = self._buses[node.port]
            self.ask(self.nodes[0], "CLUSTER MEET", LOOPBACK, str(node.port), str(bus))
        for number, node in enumerate(self.nodes[:MASTERS]):
            first, last = (_SLOTS * n // MASTERS for n in (number, number + 1))
            self.ask(node, "CLUSTER ADDSLOTSRANGE", str(first), str(last - 1))
        wait_until(self._have_met, "cluster nodes", patience=self._patience)
        for number, node in enumerate(self.nodes[:MASTERS]):
            replica = self.nodes[MASTERS + number]
            self.ask(replica, "CLUSTER REPLICATE", self.ask(node, "CLUSTER MYID"))
        wait_until(self.is_whole, "cluster", patience=self._patience)

    def stop(self) -> None:
        """Stop all, paused or not."""
        with ExitStack() as cleanup:
            for node in self.nodes:
                cleanup.callback(node.stop)

    def ask(self, node: Valkey, command: str, *arguments: str) -> Any:
        """Run a command on one node."""
        with redis.Redis.from_url(node.url, socket_timeout=2, decode_responses=True) as client:
            return client.execute_command(command, *arguments)

    def role(self, node: Valkey) -> str:
        """What a node takes itself for: "master" or "slave"."""
        return str(self.ask(node, "ROLE")[0])

    def owner(self, slot: int) -> Valkey:
        """The master of a slot, by the first node that runs."""
        asked = next(node for node in self.nodes if node.is_running())
        for first, last, master, *_ in self.ask(asked, "CLUSTER SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise DevstackError(f"nobody has slot {slot}")

    def is_whole(self) -> bool:
        """Say whether all nodes call the cluster whole, and each master has its replica."""
        for node in self.nodes:
            if self.ask(node, "CLUSTER INFO")["cluster_state"] != "ok":
                return False
            role = self.ask(node, "ROLE")
            if role[0] == "slave" and role[3] != "connected":
                return False
            if role[0] == "master" and len(role[2]) != 1:
                return False
        return True

    def _have_met(self) -> bool:
        known = (self.ask(node, "CLUSTER INFO")["cluster_known_nodes"] for node in self.nodes)
        return all(int(count) == len(self.nodes) for count in known)

    def _node(self, number: int, taken: set[int]) -> Valkey:
        directory = self._directory / f"node-{number}"
        directory.mkdir(parents=True, exist_ok=True)
        port, bus_port = free_port(taken), free_port(taken)
        self._buses[port] = bus_port
        settings = (
            "cluster-enabled yes",
            f"cluster-port {bus_port}",
            "cluster-config-file nodes.conf",
            f"cluster-node-timeout {_NODE_TIMEOUT_MS}",
            # A shard that is away must not take the others with it.
            "cluster-require-full-coverage no",
            "cluster-allow-replica-migration no",
            "cluster-replica-validity-factor 0",
            "repl-diskless-sync-delay 0",
            f"masterauth {self._password}",
        )
        site = ValkeySite(directory, directory, directory, port, self._password, settings)
        return Valkey(site, self._patience, f"node{number}")
