"""Whether a tenant sees anything of another's: asked for in every way there is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from atlas_client import (
    AggregateFunction,
    AtlasClient,
    AtlasError,
    Attribute,
    DataType,
    Point,
    analytics,
    at_least_as_fresh,
    strong,
)
from atlas_devstack.demo.tally import Tally
from atlas_devstack.demo.writer import Writer

ISOLATION_ATTRIBUTES = (
    Attribute("demo.canary", DataType.TEXT, hot=True),
    Attribute("demo.weight", DataType.INT),
)
_READ_SECONDS = 15.0
SHARED_ENTITY = "demo/shared"
"""An entity that every tenant has under the same key."""


@dataclass(slots=True)
class IsolationCounts:
    """What was asked across tenants, and what came of it."""

    foreign_entities_asked: int = 0
    foreign_entities_seen: int = 0
    foreign_tokens_tried: int = 0
    foreign_tokens_accepted: int = 0
    canaries_looked_for: int = 0
    foreign_canaries_seen: int = 0
    own_canaries_missed: int = 0
    """A control: whoever sees nothing at all sees nothing foreign either."""

    @property
    def ok(self) -> bool:
        """Say whether nothing foreign was seen, and all that was one's own."""
        asked = min(
            self.foreign_entities_asked, self.foreign_tokens_tried, self.canaries_looked_for
        )
        return asked > 0 and not (
            self.foreign_entities_seen
            + self.foreign_tokens_accepted
            + self.foreign_canaries_seen
            + self.own_canaries_missed
        )


@dataclass(slots=True)
class Isolation:
    """Plants what only one tenant may see, and looks for it as every other."""

    clients: Mapping[str, AtlasClient]
    run: str
    tally: Tally
    counts: IsolationCounts = field(default_factory=IsolationCounts)
    _tokens: dict[str, bytes] = field(default_factory=dict)

    async def plant(self, writers: Mapping[str, Writer]) -> None:
        """Write each tenant's canary, and an entity that only it has."""
        for number, (tenant, writer) in enumerate(writers.items(), 1):
            moment = datetime.now(UTC)
            result = await writer.write(
                [
                    Point(self._private(tenant), "demo.canary", self._canary(tenant), moment),
                    Point(SHARED_ENTITY, "demo.canary", self._canary(tenant), moment),
                    Point(SHARED_ENTITY, "demo.weight", 10**number, moment),
                ]
            )
            self._tokens[tenant] = result.token

    async def check(self) -> None:
        """Look for each tenant's things as each tenant. Raises AtlasError when none can answer."""
        for asker, client in self.clients.items():
            await self._see_own(asker, client)
            await self._sum_own(asker, client)
            for owner in self.clients:
                if owner != asker:
                    await self._look_for_entity(client, owner)
                    await self._look_for_canary(client, owner)
                    await self._use_token(client, owner)

    def _private(self, tenant: str) -> str:
        return f"demo/only/{tenant}/{self.run}"

    def _canary(self, tenant: str) -> str:
        return f"canary-{tenant}-{self.run}"

    async def _see_own(self, tenant: str, client: AtlasClient) -> None:
        result = await client.get_entities(
            [self._private(tenant), SHARED_ENTITY],
            attributes=["demo.canary"],
            consistency=at_least_as_fresh(self._tokens[tenant]),
            timeout=_READ_SECONDS,
        )
        values = [state.values.get("demo.canary") for state in result]
        if values != [self._canary(tenant)] * 2:
            self.counts.own_canaries_missed += 1
            self.tally.problem(f"{tenant} reads {values} instead of its own canary, twice")
        self._scan(tenant, values)
        found = client.find_entities(
            {"demo.canary": self._canary(tenant)}, consistency=strong(), timeout=_READ_SECONDS
        )
        keys = {state.entity async for state in found}
        if keys != {self._private(tenant), SHARED_ENTITY}:
            self.counts.own_canaries_missed += 1
            self.tally.problem(f"{tenant} finds its canary at {sorted(keys)}")

    async def _sum_own(self, tenant: str, client: AtlasClient) -> None:
        """The weights are powers of ten: a sum over more than one's own shows whose it holds."""
        weight = 10 ** (list(self.clients).index(tenant) + 1)
        stream = client.aggregate(
            ["demo.weight"],
            [AggregateFunction.MIN, AggregateFunction.MAX],
            entities=[SHARED_ENTITY],
            consistency=analytics(token=self._tokens[tenant]),
            timeout=_READ_SECONDS,
        )
        seen = {value async for row in stream for value in row.results.values()}
        self.counts.canaries_looked_for += 1
        if seen != {weight}:
            self.counts.foreign_canaries_seen += 1
            self.tally.problem(f"{tenant} aggregates weights {sorted(seen)}, its own is {weight}")

    async def _look_for_entity(self, client: AtlasClient, owner: str) -> None:
        key = self._private(owner)
        self.counts.foreign_entities_asked += 1
        result = await client.get_entities([key], consistency=strong(), timeout=_READ_SECONDS)
        if result.entities:
            self._foreign_entity(client, key)
        try:
            readings = [
                reading
                async for reading in client.history(
                    key, consistency=strong(), timeout=_READ_SECONDS
                )
            ]
        except AtlasError as error:
            if error.reason != "ENTITY_UNKNOWN":
                raise
        else:
            self._foreign_entity(client, f"{key} with {len(readings)} readings")

    def _foreign_entity(self, client: AtlasClient, what: str) -> None:
        self.counts.foreign_entities_seen += 1
        self.tally.problem(f"{client.tenant} sees {what}")

    async def _look_for_canary(self, client: AtlasClient, owner: str) -> None:
        found = client.find_entities(
            {"demo.canary": self._canary(owner)}, consistency=strong(), timeout=_READ_SECONDS
        )
        keys = [state.entity async for state in found]
        self.counts.canaries_looked_for += 1
        if keys:
            self.counts.foreign_canaries_seen += 1
            self.tally.problem(f"{client.tenant} finds {owner}'s canary at {keys}")

    async def _use_token(self, client: AtlasClient, owner: str) -> None:
        self.counts.foreign_tokens_tried += 1
        try:
            await client.get_entities(
                [SHARED_ENTITY],
                consistency=at_least_as_fresh(self._tokens[owner]),
                timeout=_READ_SECONDS,
            )
        except AtlasError as error:
            if error.reason != "TOKEN_WRONG_TENANT":
                raise
        else:
            self.counts.foreign_tokens_accepted += 1
            self.tally.problem(f"{client.tenant} reads with {owner}'s token")

    def _scan(self, tenant: str, values: Sequence[object]) -> None:
        foreign = {self._canary(other) for other in self.clients if other != tenant}
        self.counts.canaries_looked_for += 1
        if seen := foreign & {str(value) for value in values}:
            self.counts.foreign_canaries_seen += 1
            self.tally.problem(f"{tenant} reads {sorted(seen)}")
