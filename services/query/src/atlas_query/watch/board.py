"""What is watched, by whom, and what is known of it. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from atlas_query.watch.change import NOTHING, Change, Pair, Rank, news
from atlas_query.watch.watcher import Moment, Watcher


@dataclass(slots=True)
class TenantBoard:
    """The watched attributes of one tenant. Each is looked at once, however many watch it."""

    known: dict[Pair, Rank] = field(default_factory=dict)
    """The rank of what was the latest value at the last look."""
    watchers: dict[Pair, set[Watcher]] = field(default_factory=dict)
    everyone: set[Watcher] = field(default_factory=set)

    def add(self, watcher: Watcher, known: dict[Pair, Rank]) -> None:
        """From now on the watcher is told of changes; it knows this much already."""
        self.everyone.add(watcher)
        for pair in sorted(watcher.pairs):  # Looks sort them all, which is quick if they are.
            self.watchers.setdefault(pair, set()).add(watcher)
            rank = known.get(pair, NOTHING)
            self.known[pair] = max(rank, self.known.get(pair, NOTHING))

    def remove(self, watcher: Watcher) -> None:
        """It is gone; what nobody else watches is forgotten."""
        self.everyone.discard(watcher)
        for pair in watcher.pairs:
            others = self.watchers.get(pair)
            if others is None:
                continue
            others.discard(watcher)
            if not others:
                del self.watchers[pair], self.known[pair]

    def tell(self, found: Iterable[Change], moment: Moment, left_out: int = 0) -> None:
        """Give each watcher the changes among these points, and the moment to all."""
        told: dict[Watcher, list[Change]] = {watcher: [] for watcher in self.everyone}
        for change in news(found, self.known):
            for watcher in self.watchers.get(change.pair, ()):
                told[watcher].append(change)
        for watcher, changes in told.items():
            watcher.offer(changes, moment, left_out if changes else 0)


class Board:
    """The boards of all tenants that have watchers, and the watchers that wait to join them."""

    def __init__(self) -> None:
        self.tenants: dict[int, TenantBoard] = {}
        self.joining: list[Watcher] = []

    @property
    def pair_count(self) -> int:
        """Attributes of entities that are looked at, or about to be."""
        waiting = sum(len(watcher.pairs) for watcher in self.joining)
        return waiting + sum(len(tenant.known) for tenant in self.tenants.values())

    @property
    def is_empty(self) -> bool:
        """Whether nobody watches anything."""
        return not self.tenants and not self.joining

    def joined(self, watcher: Watcher, known: dict[Pair, Rank]) -> None:
        """The watcher has had its first look, after which it knows this much."""
        if watcher in self.joining:  # Else it has gone meanwhile.
            self.joining.remove(watcher)
            self.tenants.setdefault(watcher.tenant.id, TenantBoard()).add(watcher, known)

    def left(self, watcher: Watcher) -> None:
        """The watcher is gone."""
        if watcher in self.joining:
            self.joining.remove(watcher)
        tenant = self.tenants.get(watcher.tenant.id)
        if tenant is not None:
            tenant.remove(watcher)
            if not tenant.known:
                del self.tenants[watcher.tenant.id]

    def everyone(self) -> Iterator[Watcher]:
        """All watchers, also those that wait."""
        yield from list(self.joining)
        for tenant in list(self.tenants.values()):
            yield from list(tenant.everyone)

    def tell_nothing(self, moment: Moment) -> None:
        """Nothing has changed until this moment."""
        for tenant in self.tenants.values():
            tenant.tell((), moment)

    def tenant_ids(self, joining: Sequence[Watcher]) -> list[int]:
        """Whose data a look reads."""
        return sorted({*self.tenants, *(watcher.tenant.id for watcher in joining)})
