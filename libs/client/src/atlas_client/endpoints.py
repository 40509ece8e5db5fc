"""Where the platform's services are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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

    @classmethod
    def from_json(cls, text: str) -> "Endpoints":
        """Read what `atlas up --json` prints. Raises ValueError for anything else."""
        try:
            services: Mapping[str, Any] = json.loads(text)["services"]
            known = {name: str(target) for name, target in services.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("this is not what `atlas up --json` prints") from error
        return cls(
            ingest=known.get("ingest"),
            query=known.get("query"),
            reconciler=known.get("cdc-reconciler"),
            hotcache=known.get("hotcache"),
        )

    @classmethod
    def from_state(cls, state: Path) -> "Endpoints":
        """Read the endpoints of the stack that runs on a state directory.

        Raises FileNotFoundError when none is ready there, ValueError when the file is damaged.
        """
        return cls.from_json((state / "endpoints.json").read_text(encoding="utf-8"))
