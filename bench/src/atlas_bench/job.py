"""What the driver is asked for: one line of JSON on its stdin."""

import base64
import json
from dataclasses import dataclass

import numpy as np

from atlas_bench.template import Template


@dataclass(frozen=True)
class Request:
    """One of the requests that a run sends in turn, encoded."""

    tenant: str
    template: Template
    """Its times are filled with the moment of sending."""

    @classmethod
    def fixed(cls, tenant: str, body: bytes) -> "Request":
        """Make a request that is sent as it is."""
        return cls(tenant, Template(body, np.array([], dtype=np.int64)))


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
class Job:
    """One run."""

    target: str
    method: str
    """Full path of a gRPC method."""
    requests: tuple[Request, ...]
    load: OpenLoop | ClosedLoop
    streaming: bool = False
    """The method answers with a stream, read to its end."""
    numbered: bool = False
    """Add a WriteRequest.request_id of its own to every call."""
    timeout_seconds: float = 30.0
    warm_up_calls: int = 8
    """Made before the run, not measured."""

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(
            {
                "target": self.target,
                "method": self.method,
                "requests": [
                    {
                        "tenant": each.tenant,
                        "body": base64.b64encode(each.template.body).decode(),
                        "offsets": each.template.offsets.tolist(),
                    }
                    for each in self.requests
                ],
                "load": {"kind": type(self.load).__name__, **vars(self.load)},
                "streaming": self.streaming,
                "numbered": self.numbered,
                "timeout_seconds": self.timeout_seconds,
                "warm_up_calls": self.warm_up_calls,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Read what to_json() wrote."""
        read = json.loads(text)
        load = read.pop("load")
        kind = {"OpenLoop": OpenLoop, "ClosedLoop": ClosedLoop}[load.pop("kind")]
        requests = tuple(
            Request(
                each["tenant"],
                Template(base64.b64decode(each["body"]), np.array(each["offsets"], dtype=np.int64)),
            )
            for each in read.pop("requests")
        )
        return cls(requests=requests, load=kind(**load), **read)
