"""What runs on a state directory, seen from outside its supervisor."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from atlas_devstack.endpoints import Endpoints
from atlas_devstack.health import is_serving
from atlas_devstack.identity import ProcessIdentity


@dataclass(frozen=True)
class ComponentStatus:
    """One process of a stack, with everything below it."""

    pid: int
    running: bool
    ready: bool
    """For services what they report themselves; for servers that they run."""
    restarts: int
    gave_up: bool
    """It died so often that it is not started again."""
    resident_bytes: int
    """Resident memory of its processes; what several share, as Postgres' do, counts once."""


@dataclass(frozen=True)
class StackStatus:
    """What runs on a state directory."""

    running: bool
    """There is a supervisor."""
    ready: bool
    """Start is complete and every component is ready."""
    supervisor_pid: int | None
    resident_bytes: int
    """Of all components and the supervisor."""
    endpoints: Endpoints | None
    components: dict[str, ComponentStatus]

    def to_json(self) -> str:
        """Return one line of JSON."""
        fields = asdict(self)
        fields["endpoints"] = json.loads(self.endpoints.to_json()) if self.endpoints else None
        return json.dumps(fields)


def read_status(state: Path) -> StackStatus:
    """Look at a state directory; it need not exist."""
    supervisor = ProcessIdentity.read(state / "supervisor.json")
    running = supervisor is not None and supervisor.is_alive()
    endpoints = _read_endpoints(state) if running else None
    components = _components(state, endpoints)
    ready = endpoints is not None and all(each.ready for each in components.values())
    own = _resident_bytes(supervisor, below=False) if supervisor and running else 0
    return StackStatus(
        running=running,
        ready=ready,
        supervisor_pid=supervisor.pid if supervisor and running else None,
        resident_bytes=own + sum(each.resident_bytes for each in components.values()),
        endpoints=endpoints,
        components=components,
    )


def _read_endpoints(state: Path) -> Endpoints | None:
    try:
        return Endpoints.from_json((state / "endpoints.json").read_text())
    except (OSError, ValueError, KeyError):
        return None


def _components(state: Path, endpoints: Endpoints | None) -> dict[str, ComponentStatus]:
    targets = endpoints.services if endpoints else {}
    try:
        supervision = json.loads((state / "supervision.json").read_text())
    except (OSError, ValueError):
        supervision = {}
    found = {}
    for record in sorted((state / "run").glob("*.json")):
        identity = ProcessIdentity.read(record)
        if identity is None:
            continue
        name = record.stem
        running = identity.is_alive()
        is_ready = running and (name not in targets or is_serving(targets[name]))
        history = supervision.get(name, {})
        found[name] = ComponentStatus(
            pid=identity.pid,
            running=running,
            ready=is_ready,
            restarts=int(history.get("restarts", 0)),
            gave_up=bool(history.get("gave_up", False)),
            resident_bytes=_resident_bytes(identity, below=True) if running else 0,
        )
    return found


def _resident_bytes(identity: ProcessIdentity, *, below: bool) -> int:
    total = 0
    for member in [identity, *(identity.descendants() if below else [])]:
        try:
            total += _proportional(psutil.Process(member.pid))
        except psutil.NoSuchProcess:
            continue
    return total


def _proportional(process: psutil.Process) -> int:
    """Of a page that n processes share, each has an nth."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.AccessDenied:  # Another user's: what is shared counts in each.
        return int(process.memory_info().rss)
