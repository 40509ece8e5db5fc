"""This host as telemetry: what psutil shows, as points of all value types."""

import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import psutil

from atlas_client import Attribute, DataType, Point, Value

PROCESSES_MAX = 1500
"""More are not looked at: a sample must be done before the next one is due."""

Sample = tuple[str, str, Value]
"""Entity, attribute, value."""

_PROCESS_FIELDS = [
    *("pid", "ppid", "name", "status", "username", "num_threads", "num_fds", "memory_info"),
    *("cpu_percent", "memory_percent", "cpu_times", "create_time", "nice", "io_counters"),
    "num_ctx_switches",
]


def _attributes() -> Iterator[Attribute]:
    def hot(name: str, data_type: DataType, unit: str = "") -> Attribute:
        return Attribute(name, data_type, hot=True, unit=unit)

    def cold(name: str, data_type: DataType, unit: str = "") -> Attribute:
        return Attribute(name, data_type, unit=unit)

    yield hot("process.status", DataType.TEXT)
    yield hot("process.name", DataType.TEXT)
    yield hot("process.running", DataType.BOOL)
    yield cold("process.user", DataType.TEXT)
    yield cold("process.created", DataType.TIME)
    for name in ("pid", "parent", "threads", "descriptors", "nice"):
        yield cold(f"process.{name}", DataType.INT)
    yield cold("process.rss", DataType.INT, "By")
    yield cold("process.vms", DataType.INT, "By")
    yield cold("process.cpu_percent", DataType.DOUBLE, "%")
    yield cold("process.memory_percent", DataType.DOUBLE, "%")
    yield cold("process.cpu_user", DataType.DECIMAL, "s")
    yield cold("process.cpu_system", DataType.DECIMAL, "s")
    yield cold("process.io", DataType.JSON)
    yield cold("process.switches", DataType.JSON)
    yield hot("cpu.online", DataType.BOOL)
    for name in ("user", "system", "idle", "iowait"):
        yield cold(f"cpu.{name}_percent", DataType.DOUBLE, "%")
        yield cold(f"cpu.{name}_time", DataType.DECIMAL, "s")
    yield cold("cpu.frequency", DataType.DOUBLE, "MHz")
    yield hot("disk.active", DataType.BOOL)
    for name in ("read_bytes", "write_bytes", "read_count", "write_count"):
        yield cold(f"disk.{name}", DataType.INT)
    yield cold("disk.counters", DataType.JSON)
    yield hot("filesystem.percent", DataType.DOUBLE, "%")
    yield hot("filesystem.read_only", DataType.BOOL)
    yield cold("filesystem.type", DataType.TEXT)
    for name in ("total", "used", "free"):
        yield cold(f"filesystem.{name}", DataType.INT, "By")
    yield hot("interface.up", DataType.BOOL)
    yield cold("interface.duplex", DataType.TEXT)
    yield cold("interface.addresses", DataType.JSON)
    yield cold("interface.packets", DataType.JSON)
    for name in ("speed", "mtu", "bytes_sent", "bytes_received", "errors", "dropped"):
        yield cold(f"interface.{name}", DataType.INT)
    yield hot("sensor.value", DataType.DOUBLE)
    yield cold("sensor.limits", DataType.JSON)
    yield hot("host.platform", DataType.TEXT)
    yield hot("host.memory_percent", DataType.DOUBLE, "%")
    yield cold("host.boot_time", DataType.TIME)
    yield cold("host.processes", DataType.INT)
    yield cold("host.memory", DataType.JSON)
    yield cold("host.swap", DataType.JSON)
    for name in ("load1", "load5", "load15"):
        yield cold(f"host.{name}", DataType.DECIMAL)


HOST_ATTRIBUTES = tuple(_attributes())


def host_key() -> str:
    """Return the key of the host's own entity."""
    return f"host/{socket.gethostname()}"


_DUPLEX: dict[int, str] = {psutil.NIC_DUPLEX_FULL: "full", psutil.NIC_DUPLEX_HALF: "half"}


class HostSampler:
    """Looks at everything, again and again. Blocking: a look takes some tenths of a second."""

    def __init__(self) -> None:
        self._disk_bytes: dict[str, int] = {}
        self._parts: tuple[Callable[[], Iterator[Sample]], ...] = (
            self._processes,
            self._cpus,
            self._disks,
            self._filesystems,
            self._interfaces,
            self._sensors,
            self._host,
        )

    def sample(self) -> list[Sample]:
        """Return one value of every attribute of everything there is now."""
        return [sample for part in self._parts for sample in part()]

    def _processes(self) -> Iterator[Sample]:
        for number, process in enumerate(psutil.process_iter()):
            if number == PROCESSES_MAX:
                return
            try:
                fields = process.as_dict(_PROCESS_FIELDS, ad_value=None)
            except psutil.NoSuchProcess:
                continue  # It ended while we looked.
            yield from _process(fields)

    def _cpus(self) -> Iterator[Sample]:
        percents = psutil.cpu_times_percent(percpu=True)
        for number, times in enumerate(psutil.cpu_times(percpu=True)):
            key = f"cpu/{number}"
            yield key, "cpu.online", True
            for name in ("user", "system", "idle", "iowait"):
                if hasattr(times, name):
                    yield key, f"cpu.{name}_percent", float(getattr(percents[number], name))
                    yield key, f"cpu.{name}_time", _decimal(getattr(times, name))
        frequencies = _tried(lambda: psutil.cpu_freq(percpu=True)) or []
        for number, frequency in enumerate(frequencies):
            yield f"cpu/{number}", "cpu.frequency", float(frequency.current)

    def _disks(self) -> Iterator[Sample]:
        for name, io in (_tried(lambda: psutil.disk_io_counters(perdisk=True)) or {}).items():
            key = f"disk/{name}"
            moved = io.read_bytes + io.write_bytes
            yield key, "disk.active", moved != self._disk_bytes.get(name, moved)
            self._disk_bytes[name] = moved
            for field in ("read_bytes", "write_bytes", "read_count", "write_count"):
                yield key, f"disk.{field}", int(getattr(io, field))
            yield key, "disk.counters", io._asdict()

    def _filesystems(self) -> Iterator[Sample]:
        for partition in psutil.disk_partitions():
            usage = _tried(partial(psutil.disk_usage, partition.mountpoint))
            if usage is None:
                continue
            key = _clean(f"filesystem{partition.mountpoint}")
            yield key, "filesystem.percent", float(usage.percent)
            yield key, "filesystem.read_only", "ro" in partition.opts.split(",")
            yield key, "filesystem.type", partition.fstype
            for field in ("total", "used", "free"):
                yield key, f"filesystem.{field}", int(getattr(usage, field))

    def _interfaces(self) -> Iterator[Sample]:
        addresses = psutil.net_if_addrs()
        counters = psutil.net_io_counters(pernic=True)
        for name, state in psutil.net_if_stats().items():
            key = f"interface/{name}"
            yield key, "interface.up", bool(state.isup)
            yield key, "interface.duplex", _DUPLEX.get(state.duplex, "unknown")
            yield key, "interface.speed", int(state.speed)
            yield key, "interface.mtu", int(state.mtu)
            yield key, "interface.addresses", [each.address for each in addresses.get(name, [])]
            if io := counters.get(name):
                yield key, "interface.bytes_sent", io.bytes_sent
                yield key, "interface.bytes_received", io.bytes_recv
                yield key, "interface.errors", io.errin + io.errout
                yield key, "interface.dropped", io.dropin + io.dropout
                packets = {"sent": io.packets_sent, "received": io.packets_recv}
                yield key, "interface.packets", packets

    def _sensors(self) -> Iterator[Sample]:
        readers = ("sensors_temperatures", "sensors_fans")  # Not there on every platform.
        for reader in readers:
            groups = _tried(getattr(psutil, reader, dict)) or {}
            for group, sensors in groups.items():
                for number, sensor in enumerate(sensors):
                    key = _clean(f"sensor/{group}/{sensor.label or number}")
                    yield key, "sensor.value", float(sensor.current)
                    limits = {"high": getattr(sensor, "high", None)}
                    yield key, "sensor.limits", limits

    def _host(self) -> Iterator[Sample]:
        key = host_key()
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        yield key, "host.platform", sys.platform
        yield key, "host.memory_percent", float(memory.percent)
        yield key, "host.boot_time", datetime.fromtimestamp(psutil.boot_time(), UTC)
        yield key, "host.processes", len(psutil.pids())
        yield key, "host.memory", {"total": memory.total, "available": memory.available}
        yield key, "host.swap", {"total": swap.total, "used": swap.used}
        for name, load in zip(("load1", "load5", "load15"), psutil.getloadavg(), strict=True):
            yield key, f"host.{name}", _decimal(load)


def points(samples: list[Sample], moment: datetime) -> list[Point]:
    """Return the samples as points of this moment."""
    return [Point(entity, attribute, value, moment) for entity, attribute, value in samples]


def _process(fields: dict[str, Any]) -> Iterator[Sample]:
    created = fields["create_time"]
    # With its start: a pid alone is given to another process later.
    key = f"process/{fields['pid']}-{int(created or 0)}"
    known: dict[str, Value | None] = {
        "status": fields["status"],
        "running": fields["status"] != psutil.STATUS_ZOMBIE,
        "name": _clean(fields["name"] or ""),
        "user": fields["username"],
        "created": datetime.fromtimestamp(created, UTC) if created else None,
        "pid": fields["pid"],
        "parent": fields["ppid"],
        "threads": fields["num_threads"],
        "descriptors": fields["num_fds"],
        "nice": None if fields["nice"] is None else int(fields["nice"]),
        "cpu_percent": fields["cpu_percent"],
        "memory_percent": fields["memory_percent"],
    }
    if memory := fields["memory_info"]:
        known |= {"rss": memory.rss, "vms": memory.vms}
    if times := fields["cpu_times"]:
        known |= {"cpu_user": _decimal(times.user), "cpu_system": _decimal(times.system)}
    if io := fields["io_counters"]:
        known["io"] = io._asdict()
    if switches := fields["num_ctx_switches"]:
        known["switches"] = switches._asdict()
    for name, value in known.items():
        if value is not None:
            yield key, f"process.{name}", value


def _decimal(number: float) -> Decimal:
    return Decimal(f"{number:.2f}")


def _clean(text: str) -> str:
    """Names come from outside: no control characters, no broken encoding."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return printable.encode("utf-8", "replace").decode()[:200]


def _tried(read: Callable[[], Any]) -> Any:
    """What a host does not show (in a container, say) is left out."""
    try:
        return read()
    except (OSError, RuntimeError, NotImplementedError, psutil.Error):
        return None
