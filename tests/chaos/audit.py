"""Compares a ledger with what a database holds: every promise, and nothing but what was sent."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import psycopg

from atlas.type.freshness import FreshnessToken
from atlas_devstack.database import Database

from .ledger import Ledger, Level, Outcome, SentBatch, SentPoint, serials

_STORED = """
SELECT t.key, e.key, a.name, (extract(epoch FROM v.event_time) * 1000000)::bigint,
    coalesce(v.value_int::text, v.value_text)
FROM entity_values_ts AS v
LEFT JOIN tenants AS t USING (tenant_id)
LEFT JOIN entities AS e USING (tenant_id, entity_id)
LEFT JOIN attributes AS a USING (tenant_id, attribute_id)
"""
# What the projection shows and what it should show, where they differ.
_PROJECTION = """
WITH newest AS (
    SELECT DISTINCT ON (v.tenant_id, v.entity_id, v.attribute_id)
        v.tenant_id, v.entity_id, v.attribute_id,
        coalesce(v.value_int::text, v.value_text) AS value,
        (extract(epoch FROM v.event_time) * 1000000)::bigint::text AS event_us
    FROM entity_values_ts AS v JOIN attributes AS a USING (tenant_id, attribute_id)
    WHERE a.is_hot
    ORDER BY v.tenant_id, v.entity_id, v.attribute_id, v.event_time DESC
), projected AS (
    SELECT p.tenant_id, p.entity_id, n.key::int AS attribute_id, n.value,
        p.attr_times ->> n.key AS event_us
    FROM entity_jsonb AS p CROSS JOIN LATERAL jsonb_each_text(p.attrs) AS n
)
SELECT tenant_id, entity_id, attribute_id, n.value, p.value
FROM newest AS n FULL JOIN projected AS p USING (tenant_id, entity_id, attribute_id)
WHERE (n.value, n.event_us) IS DISTINCT FROM (p.value, p.event_us)
"""
_STATES = """
SELECT w.lane, w.epoch, w.sequence, position_state(w.lane, w.epoch, w.sequence)
FROM unnest(%s::smallint[], %s::bigint[], %s::bigint[]) AS w (lane, epoch, sequence)
"""
_SHOWN_MAX = 8


@dataclass
class Findings:
    """What is wrong; all empty if nothing is."""

    lost: list[str] = field(default_factory=list)
    """Promised and not stored."""
    doubled: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """Stored under the other tenant."""
    altered: list[str] = field(default_factory=list)
    """Stored with another entity, attribute, event time or value than was sent, or never sent."""
    refused: list[str] = field(default_factory=list)
    """Refused and stored all the same."""
    projections: list[str] = field(default_factory=list)
    """Not the newest stored value."""
    tokens: list[str] = field(default_factory=list)
    """Positions of promised writes that are not reached."""
    stored: int = 0
    """How many rows there are; no finding."""

    def problems(self) -> dict[str, str]:
        """Kind -> count and the first of them."""
        found = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, list) and value:
                found[each.name] = f"{len(value)}: {'; '.join(value[:_SHOWN_MAX])}"
        return found


async def audit(
    database: Database, ledger: Ledger, floor: Level, *, until: float = float("inf")
) -> Findings:
    """Compare; what was acknowledged at `floor` or above before `until` must be there.

    Raises psycopg.Error when the database is away.
    """
    promised = ledger.promised(floor, until)  # Before the snapshot that is to hold them.
    snapshot = await asyncio.to_thread(_read, database.admin_dsn, positions(promised))
    return compare(ledger, promised, snapshot)


@dataclass(frozen=True)
class Snapshot:
    """What a database held at one moment."""

    rows: list[Any]
    projections: list[Any]
    """Where the projection is not the newest stored value."""
    states: list[Any]
    """Positions and what has become of them."""

    @classmethod
    def read(
        cls, connection: "psycopg.Connection[Any]", wanted: list[tuple[int, int, int]]
    ) -> "Snapshot":
        """In the connection's transaction."""
        rows = connection.execute(_STORED).fetchall()
        projections = connection.execute(_PROJECTION).fetchall()
        columns = [list(column) for column in zip(*wanted, strict=True)] or [[], [], []]
        return cls(rows, projections, connection.execute(_STATES, columns).fetchall())


def compare(ledger: Ledger, promised: list[SentBatch], snapshot: Snapshot) -> Findings:
    """What is wrong with a snapshot that is no older than the promises."""
    refused = serials(ledger.with_outcome(Outcome.REFUSED))
    # All that was ever sent: it may hold what was sent only a moment ago.
    findings = _compare(snapshot.rows, ledger.points(), promised, refused)
    findings.projections = [
        f"tenant {row[0]} entity {row[1]} attribute {row[2]}: stored {row[3]}, shown {row[4]}"
        for row in snapshot.projections
    ]
    findings.tokens = [
        f"{state[:3]} is {state[3]}" for state in snapshot.states if state[3] != "reached"
    ]
    return findings


def positions(batches: Iterable[SentBatch]) -> list[tuple[int, int, int]]:
    """The distinct positions of their tokens."""
    found = {
        (position.lane, position.epoch, position.sequence)
        for token in {batch.token for batch in batches if batch.token}
        for position in FreshnessToken.decode(token).positions
    }
    return sorted(found)


def token_states(
    connection: "psycopg.Connection[Any]", tokens: Iterable[bytes]
) -> dict[bytes, str]:
    """What has become of each token: lost, pending or reached, the worst of its positions."""
    parsed = {token: FreshnessToken.decode(token).positions for token in tokens}
    wanted = sorted({(p.lane, p.epoch, p.sequence) for each in parsed.values() for p in each})
    columns = [list(column) for column in zip(*wanted, strict=True)] or [[], [], []]
    states = {row[:3]: row[3] for row in connection.execute(_STATES, columns)}
    return {
        token: min(states[(p.lane, p.epoch, p.sequence)] for p in each)  # In this order by name.
        for token, each in parsed.items()
    }


def _read(dsn: str, wanted: list[tuple[int, int, int]]) -> Snapshot:
    with psycopg.connect(dsn, connect_timeout=5) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return Snapshot.read(connection, wanted)


def _compare(
    rows: list[Any],
    sent: dict[int, tuple[SentBatch, SentPoint]],
    promised: list[SentBatch],
    refused: set[int],
) -> Findings:
    findings = Findings(stored=len(rows))
    times: Counter[int] = Counter()
    for tenant, entity, attribute, event_us, value in rows:
        serial = int(value.rpartition(" ")[2])
        if serial not in sent:
            findings.altered.append(f"{tenant} {entity} {attribute} {value}: never sent")
            continue
        times[serial] += 1
        point = sent[serial][1]
        if tenant != point.tenant:
            findings.foreign.append(f"{point} is stored under {tenant}")
        elif (entity, attribute, event_us, value) != (
            point.entity,
            point.kind.name,
            point.event_time_us,
            point.value,
        ):
            findings.altered.append(f"{point} is {entity} {attribute} {event_us} {value}")
        if serial in refused:
            findings.refused.append(_name(*sent[serial]))
    findings.doubled = [
        f"{count} times {_name(*sent[serial])}" for serial, count in times.items() if count > 1
    ]
    findings.lost = [
        _name(batch, point)
        for batch in promised
        for point in batch.points
        if not times[point.serial]
    ]
    return findings


def _name(batch: SentBatch, point: SentPoint) -> str:
    return f"{batch.level.name} {batch.tenant} {batch.key} #{point.serial}"
