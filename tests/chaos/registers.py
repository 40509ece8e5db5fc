"""Registers under load: entities whose version only rises, written, read back, and judged at once.

Each register has one writer. A version names its register and its tenant in a text beside it, so a
reading says by itself whose it is. Readers hold tokens as sessions do, and note whatever no caller
should ever see.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from atlas_client import (
    AckLevel,
    AtlasClient,
    AtlasError,
    Attribute,
    Consistency,
    DataType,
    EntitiesResult,
    Point,
    at_least_as_fresh,
    eventual,
    strong,
)

ATTRIBUTES = (Attribute("version", DataType.INT, hot=True), Attribute("owner", DataType.TEXT))
CALL_SECONDS_MAX = 3.0
DRAIN_SECONDS_MAX = 30.0
_PAUSE_SECONDS = 0.02
_T0 = datetime.now(UTC) - timedelta(hours=1)


@dataclass
class Register:
    """One entity of one tenant, and what its writer was told."""

    tenant: str
    name: str
    acknowledged: dict[int, bytes] = field(default_factory=dict)
    """Version -> its write's token."""
    newest: int = 0
    """That was acknowledged."""

    @property
    def owner(self) -> str:
        return f"{self.tenant}/{self.name}"


@dataclass
class Tally:
    """What became of the calls of one kind."""

    served: list[tuple[float, str]] = field(default_factory=list)
    """When, by time.monotonic(), and for which tenant."""
    losses: int = 0
    """Answers that said POSITION_LOST."""
    failures: dict[str, int] = field(default_factory=dict)

    def failed(self, error: AtlasError) -> None:
        key = f"{error.code.name} {error.reason}"
        self.failures[key] = self.failures.get(key, 0) + 1


class Registers:
    """The load. `findings` is empty as long as every promise is kept."""

    def __init__(self, clients: Sequence[AtlasClient], per_tenant: int) -> None:
        self._clients = {str(client.tenant): client for client in clients}
        self.anyone = clients[0]
        self.registers = [
            Register(tenant, f"register-{number}")  # Both tenants use the same names.
            for tenant in self._clients
            for number in range(per_tenant)
        ]
        self.tallies: dict[str, Tally] = {
            kind: Tally() for kind in ("write", "plain", "strong", "eventual", "token")
        }
        self.findings: list[str] = []
        self.doubts: list[tuple[Register, int]] = []
        """Versions acknowledged before a STRONG read that did not show them: they must be lost."""
        self._stopping = asyncio.Event()
        self._is_written = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write and read during the block; at its end all outcomes are known."""
        async with asyncio.timeout(None) as patience, asyncio.TaskGroup() as tasks:
            for register in self.registers:
                for work in (self._write, self._plain, self._strong, self._eventual, self._token):
                    tasks.create_task(work(register))
            try:
                yield
            finally:
                self._stopping.set()
                patience.reschedule(asyncio.get_running_loop().time() + DRAIN_SECONDS_MAX)

    def stop_writing(self) -> None:
        """Begin no further write; reads go on."""
        self._is_written = False

    def served_since(self, moment: float, kind: str) -> int:
        """How many calls of a kind were answered since then, for the tenant that got the fewest."""
        served = Counter(tenant for at, tenant in self.tallies[kind].served if at > moment)
        return min(served[tenant] for tenant in self._clients)

    async def _write(self, register: Register) -> None:
        client, tally = self._clients[register.tenant], self.tallies["write"]
        for version in itertools.count(1):
            if self._stopping.is_set() or not self._is_written:
                return
            at = _T0 + timedelta(milliseconds=version)
            points = [
                Point(register.name, "version", version, at),
                Point(register.name, "owner", f"{register.owner} {version}", at),
            ]
            key = f"{register.name}-{version}"
            while True:  # Until it is known: the same request, as often as it takes.
                try:
                    result = await client.write(
                        points, request_id=key, ack=AckLevel.DURABLE, timeout=CALL_SECONDS_MAX
                    )
                except AtlasError as error:
                    tally.failed(error)
                    await asyncio.sleep(_PAUSE_SECONDS)
                else:
                    break
            register.acknowledged[version] = result.token
            register.newest = version
            tally.served.append((time.monotonic(), register.tenant))

    async def _plain(self, register: Register) -> None:
        """STRONG without a token: all that was acknowledged before, but for what is lost."""
        while not self._stopping.is_set():
            acknowledged = register.newest
            found = await self._read(register, "plain", strong())
            if isinstance(found, EntitiesResult):
                version = self._judge(register, "plain", found, 0)
                if version < acknowledged:
                    self.doubts.append((register, acknowledged))

    async def _strong(self, register: Register) -> None:
        """With the token of the answer before: never back, but where the answer says so."""
        await self._read_on(register, "strong", lambda token: strong(token=token))

    async def _eventual(self, register: Register) -> None:
        await self._read_on(register, "eventual", lambda token: eventual(token=token))

    async def _read_on(
        self, register: Register, kind: str, level: Callable[[bytes], Consistency]
    ) -> None:
        token, least = b"", 0
        while not self._stopping.is_set():
            found = await self._read(register, kind, level(token))
            if found is None:
                continue
            if found == "lost":
                token, least = b"", 0
                continue
            token = found.metadata.token
            least = self._judge(register, kind, found, least)

    async def _token(self, register: Register) -> None:
        """Whoever holds a write's token sees that write, or is told that it is lost."""
        while not self._stopping.is_set():
            newest = register.newest
            if not newest:
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            wanted = at_least_as_fresh(register.acknowledged[newest])
            found = await self._read(register, "token", wanted)
            if isinstance(found, EntitiesResult):
                self._judge(register, "token", found, newest)

    async def _read(
        self, register: Register, kind: str, consistency: Consistency
    ) -> EntitiesResult | Literal["lost"] | None:
        """The answer; "lost" where it says so; None where there is none."""
        tally = self.tallies[kind]
        try:
            found = await self._clients[register.tenant].get_entities(
                [register.name],
                attributes=["version", "owner"],
                consistency=consistency,
                timeout=CALL_SECONDS_MAX,
            )
        except AtlasError as error:
            if error.reason == "POSITION_LOST":
                tally.losses += 1
                return "lost"
            tally.failed(error)
            await asyncio.sleep(_PAUSE_SECONDS)
            return None
        tally.served.append((time.monotonic(), register.tenant))
        return found

    def _judge(self, register: Register, kind: str, found: EntitiesResult, least: int) -> int:
        values = found[register.name].values if found.entities else {}
        version = int(str(values.get("version", 0)))
        if version < least:
            self.findings.append(f"{kind} of {register.owner}: {version} after {least}")
        if version and values.get("owner") != f"{register.owner} {version}":
            self.findings.append(f"{kind} of {register.owner}: {values}")
        return version
