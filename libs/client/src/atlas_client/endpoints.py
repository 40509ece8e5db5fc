"""Where the platform's services are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_client.security import Security


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses as "host:port". A service that a program does not call may be left out."""

    ingest: str | None = None
    """Writes and the catalog."""
    query: str | None = None
    """Reads."""
    reconciler: str | None = None
    """Reconciliation and the state of the pipeline into the warehouse."""
    hotcache: str | None = None
    """Its status, and the projection's administration; reads go through query."""
    security: Security | None = None
    """How all of them are connected to, and who calls; plain text and nobody unless given."""

    @classmethod
    def from_json(cls, text: str) -> "Endpoints":
        """Read what `atlas up --json` prints, and "security" besides (see Security.from_json).

        Raises ValueError for anything else.
        """
        try:
            read = json.loads(text)
            services: Mapping[str, Any] = read["services"]
            known = {name: str(target) for name, target in services.items()}
            security: Mapping[str, Any] | None = read.get("security")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("this is not what `atlas up --json` prints") from error
        return cls(
            ingest=known.get("ingest"),
            query=known.get("query"),
            reconciler=known.get("cdc-reconciler"),
            hotcache=known.get("hotcache"),
            security=None if security is None else Security.from_json(security),
        )

    @classmethod
    def from_state(cls, state: Path) -> "Endpoints":
        """Read the endpoints of the stack that runs on a state directory.

        Raises FileNotFoundError when none is ready there, ValueError when the file is damaged.
        """
        return cls.from_json((state / "endpoints.json").read_text(encoding="utf-8"))
