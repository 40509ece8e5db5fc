"""Which indexes statements went through, also those within functions, as auto_explain tells."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

_PLAN = re.compile(r"plan:\s*(\{.*\})", re.DOTALL)


class Plans:
    """The plans of what ran."""

    def __init__(self) -> None:
        self._plans: list[dict[str, Any]] = []

    def hear(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        found = _PLAN.search(diagnostic.message_primary or "")
        if found:
            self._plans.append(json.loads(found[1])["Plan"])

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """All nodes of all plans."""
        return [node for plan in self._plans for node in _nodes(plan)]

    @property
    def indexes(self) -> set[str]:
        """The indexes that were asked."""
        return {node["Index Name"] for node in self.nodes if "Index Name" in node}

    @property
    def kinds(self) -> set[str]:
        """The kinds of nodes, "Seq Scan" for example."""
        return {node["Node Type"] for node in self.nodes}

    def rows_read(self, relation: str) -> int:
        """How many rows of a table were looked at."""
        return sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
             + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"]
            for node in self.nodes
            if node.get("Relation Name") == relation
        )  # fmt: skip


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


@contextmanager
def explained(admin_dsn: str, role: str) -> Iterator[tuple["psycopg.Connection[Any]", Plans]]:
    """A connection as a role, which only a superuser can have explained; and what it ran."""
    plans = Plans()
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.add_notice_handler(plans.hear)
        connection.execute("LOAD 'auto_explain'")
        for setting, value in (
            ("auto_explain.log_format", "json"),
            ("auto_explain.log_nested_statements", "on"),
            ("auto_explain.log_analyze", "on"),
            ("auto_explain.log_min_duration", "0"),
            ("client_min_messages", "log"),
        ):
            connection.execute(f"SET {setting} = '{value}'")
        connection.execute(f"SET SESSION AUTHORIZATION {role}")
        yield connection, plans
