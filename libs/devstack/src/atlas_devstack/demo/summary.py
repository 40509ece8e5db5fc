"""The end of a demo: one object, for people and for programs.

`atlas demo --json` prints exactly this object:

    ok              everything below holds
    seconds         how long it was fed; points_per_second: acknowledged points over that time
    points          {"acknowledged", "primary", "warehouse"}: all three equal. primary counts rows
                    in entity_values_ts, warehouse rows there, both of this run
    checksums       {"equal", "windows_mismatched"} and per tenant {"primary", "warehouse"}
    tenants         per tenant: points as above, "verified_through"
    read_your_write per tier: {"checks", "failures", "unavailable", "elsewhere", "p50_ms",
                    "p99_ms"}; every tier has checks and no failures
    isolation       {"ok", ...} what was asked across tenants and what was seen: nothing
    latency_ms      {"ack_p50", "ack_p99"}
    writes          {"sent", "sent_again", "already_stored", "unsettled_points"}
    sources         {"entities", "samples", "skipped_samples"}
    tiers           per endpoint {"source", "lag_seconds", "lag_seconds_max", "available"}
    cache           {"hits", "misses"}; pipeline: {"read", "applied", "dead_lettered", "skipped"}
    problems        what is wrong, in words; empty when ok
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from atlas_devstack.demo.isolation import IsolationCounts
from atlas_devstack.demo.proof import TenantProof
from atlas_devstack.demo.tally import Tally
from atlas_devstack.demo.watch import Figures


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run that came to its end."""

    seconds: float
    tally: Tally
    isolation: IsolationCounts
    proofs: Mapping[str, TenantProof]
    figures: Figures

    @property
    def ok(self) -> bool:
        """Say whether everything holds."""
        return (
            self.tally.points > 0
            and all(proof.ok for proof in self.proofs.values())
            and all(each.checks and not each.failures for each in self.tally.probes.values())
            and self.isolation.ok
            and not self.tally.unsettled
            and not self.tally.problems
        )

    def to_json(self) -> dict[str, Any]:
        """Return the object that this module's docstring describes."""
        tally, proofs = self.tally, self.proofs
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "points_per_second": round(tally.points / self.seconds) if self.seconds else 0,
            "points": {
                name: sum(getattr(proof, name) for proof in proofs.values())
                for name in ("acknowledged", "primary", "warehouse")
            },
            "checksums": self._checksums(),
            "tenants": {tenant: _tenant(proof) for tenant, proof in proofs.items()},
            "read_your_write": {tier: self._probes(tier) for tier in tally.probes},
            "isolation": {"ok": self.isolation.ok, **asdict(self.isolation)},
            "latency_ms": {
                "ack_p50": tally.ack.percentile_ms(50),
                "ack_p99": tally.ack.percentile_ms(99),
            },
            "writes": {
                "sent": tally.writes,
                "sent_again": tally.repeated_writes,
                "already_stored": tally.duplicate_answers,
                "unsettled_points": sum(tally.unsettled.values()),
            },
            "sources": {
                "entities": len(tally.entities),
                "samples": tally.samples,
                "skipped_samples": tally.skipped_samples,
            },
            "tiers": self._tiers(),
            "cache": self._cache(),
            "pipeline": self._pipeline(),
            "problems": self._problems(),
        }

    def _checksums(self) -> dict[str, Any]:
        proofs = self.proofs
        return {
            "equal": all(p.checksum_primary == p.checksum_warehouse for p in proofs.values()),
            "windows_mismatched": sum(p.windows_mismatched for p in proofs.values()),
            "tenants": {
                tenant: {"primary": p.checksum_primary, "warehouse": p.checksum_warehouse}
                for tenant, p in proofs.items()
            },
        }

    def _probes(self, tier: str) -> dict[str, Any]:
        probes = self.tally.probes[tier]
        return {
            "checks": probes.checks,
            "failures": probes.failures,
            "unavailable": probes.unavailable,
            "elsewhere": probes.elsewhere,
            "p50_ms": probes.latencies.percentile_ms(50),
            "p99_ms": probes.latencies.percentile_ms(99),
        }

    def _tiers(self) -> dict[str, Any]:
        return {
            tier.endpoint: {
                "source": tier.source,
                "available": tier.available,
                "lag_seconds": None if tier.lag is None else tier.lag.total_seconds(),
                "lag_seconds_max": self.figures.lag_seconds_max.get(tier.endpoint),
            }
            for tier in self.figures.tiers
        }

    def _cache(self) -> dict[str, Any] | None:
        cache = self.figures.cache
        return None if cache is None else {"hits": cache.hits_total, "misses": cache.misses_total}

    def _pipeline(self) -> dict[str, Any] | None:
        pipeline = self.figures.pipeline
        if pipeline is None:
            return None
        return {
            "read": pipeline.read_total,
            "applied": pipeline.applied_total,
            "dead_lettered": pipeline.dead_lettered_total,
            "skipped": pipeline.skipped_total,
        }

    def _problems(self) -> list[str]:
        found = list(self.tally.problems)
        for tenant, proof in self.proofs.items():
            if not proof.ok:
                found.append(
                    f"{tenant}: {proof.acknowledged:,} points acknowledged,"
                    f" {proof.primary:,} on the primary, {proof.warehouse:,} in the warehouse,"
                    f" {proof.windows_mismatched} windows differ"
                )
        for tier, probes in self.tally.probes.items():
            if not probes.checks:
                found.append(f"read-your-write was never checked at the tier {tier}")
        return found

    def show(self, console: Console) -> None:
        """Print it for people."""
        facts = self.to_json()
        console.print(_proof_table(facts))
        console.print(_probe_table(facts))
        isolation = facts["isolation"]
        latency = facts["latency_ms"]
        sources = facts["sources"]
        console.print(
            f"{sources['entities']} entities, {facts['points_per_second']:,} points/s over"
            f" {facts['seconds']} s, ack p50 {latency['ack_p50']} ms, p99 {latency['ack_p99']} ms,"
            f" {facts['writes']['sent_again']} writes given up and sent again,"
            f" {sources['skipped_samples']} samples skipped"
        )
        looked = isolation["canaries_looked_for"] + isolation["foreign_entities_asked"]
        seen = isolation["foreign_canaries_seen"] + isolation["foreign_entities_seen"]
        console.print(
            f"isolation: {looked} looks at other tenants' data saw {seen} things,"
            f" {isolation['foreign_tokens_accepted']} of {isolation['foreign_tokens_tried']}"
            " foreign tokens were accepted"
        )
        for problem in facts["problems"]:
            console.print(f"WRONG: {problem}", style="red")
        verdict = "everything holds" if self.ok else "NOT everything holds"
        console.print(verdict, style="bold green" if self.ok else "bold red")


def _tenant(proof: TenantProof) -> dict[str, Any]:
    through = proof.verified_through
    return {
        "acknowledged": proof.acknowledged,
        "primary": proof.primary,
        "warehouse": proof.warehouse,
        "verified_through": None if through is None else through.isoformat(),
    }


def _proof_table(facts: dict[str, Any]) -> Table:
    table = Table("tenant", title="points of this run", title_justify="left")
    for head in ("acknowledged", "entity_values_ts", "warehouse", "checksums"):
        table.add_column(head, justify="right")
    for tenant, counts in facts["tenants"].items():
        sums = facts["checksums"]["tenants"][tenant]
        equal = "equal" if sums["primary"] == sums["warehouse"] else "DIFFERENT"
        numbers = (counts["acknowledged"], counts["primary"], counts["warehouse"])
        table.add_row(tenant, *(f"{number:,}" for number in numbers), equal)
    total = (facts["points"][name] for name in ("acknowledged", "primary", "warehouse"))
    table.add_row("all", *(f"{number:,}" for number in total), "", style="bold")
    return table


def _probe_table(facts: dict[str, Any]) -> Table:
    table = Table("tier", title="read your own writes", title_justify="left")
    for head in ("checks", "wrong", "unavailable", "elsewhere", "p50 ms", "p99 ms"):
        table.add_column(head, justify="right")
    for tier, probes in facts["read_your_write"].items():
        table.add_row(tier, *(str(value) for value in probes.values()))
    return table
