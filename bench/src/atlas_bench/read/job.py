"""What the driver of reads is asked for: one line of JSON on its stdin."""

import base64
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class OpenLoop:
    """Calls at a rate, per second, whatever the answers."""

    rate: float
    seconds: float
    seed: int


@dataclass(frozen=True)
class ClosedLoop:
    """So many callers, for so many seconds or calls."""

    callers: int
    seconds: float
    calls_max: int | None = None


@dataclass(frozen=True)
class Door:
    """Where to ask, and what one needs to get in."""

    target: str
    ca_file: str | None = None
    """The authority that the server is believed by; without one there is no TLS."""
    token: str | None = None


@dataclass(frozen=True)
class ReadJob:
    """One run."""

    door: Door
    method: str
    """Full path of a gRPC method."""
    tenant: str
    requests: tuple[bytes, ...]
    """Encoded; sent in turn."""
    load: OpenLoop | ClosedLoop
    streaming: bool = False
    """The method answers with a stream: its first message counts, and it is read to its end."""
    timeout_seconds: float = 30.0
    warm_up_calls: int = 4
    """Made before the run, not measured."""

    def to_json(self) -> str:
        """Return it as one line."""
        requests = [base64.b64encode(body).decode() for body in self.requests]
        load = {"kind": type(self.load).__name__, **vars(self.load)}
        return json.dumps(
            {**vars(self), "door": vars(self.door), "requests": requests, "load": load}
        )

    @classmethod
    def from_json(cls, text: str) -> "ReadJob":
        """Read what to_json() wrote."""
        read = json.loads(text)
        load, door = read.pop("load"), Door(**read.pop("door"))
        kind = {"OpenLoop": OpenLoop, "ClosedLoop": ClosedLoop}[load.pop("kind")]
        requests = tuple(base64.b64decode(body) for body in read.pop("requests"))
        return cls(door=door, requests=requests, load=kind(**load), **read)
