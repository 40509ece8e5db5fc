"""How the parts are put together; tests put theirs together the same way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from atlas_common.catalog import Catalog
from atlas_common.token import TokenSigner
from atlas_hotcache import convert
from atlas_hotcache.checker import Checker
from atlas_hotcache.config import Config
from atlas_hotcache.invalidator import Invalidator
from atlas_hotcache.metrics import Counts
from atlas_hotcache.ports import Cache, Primary
from atlas_hotcache.reader import Reader
from atlas_hotcache.sampler import Sampler
from atlas_hotcache.servicer import HotCacheServicer
from atlas_hotcache.shards import Shards
from atlas_hotcache.watcher import CatchUp, Watcher


@dataclass(frozen=True, slots=True)
class Parts:
    """What is served, what runs beside it, and what is worth looking into."""

    servicer: HotCacheServicer
    watcher: Watcher
    reader: Reader
    invalidator: Invalidator
    checker: Checker
    shards: Shards


def wire(
    config: Config,
    primary: Primary,
    caches: Sequence[Cache],
    catalog: Catalog,
    clock: Callable[[], float],
) -> Parts:
    """The service's parts over these stores. `clock`: monotonic seconds."""
    counts = Counts()
    shards = Shards(caches)
    sampler = Sampler(config.cache.checked_share)
    watcher = Watcher(
        primary,
        shards,
        interval_seconds=config.cache.poll_interval_seconds,
        patience_seconds=config.cache.patience_seconds,
        catch_up=CatchUp(config.cache.catch_up_seconds, config.cache.catch_up_entities_max),
        clock=clock,
        counts=counts,
        on_new_history=catalog.drop_all_attributes,
    )
    reader = Reader(
        primary,
        shards,
        watcher,
        sampler,
        encode=convert.body,
        reads_max=config.cache.primary_reads_max,
        clock=clock,
        counts=counts,
    )
    checker = Checker(
        primary,
        shards,
        watcher,
        sampler,
        holds=convert.holds,
        per_second_max=config.cache.checks_per_second_max,
        counts=counts,
    )
    invalidator = Invalidator(shards, watcher, counts, config.cache.invalidated_entities_max)
    servicer = HotCacheServicer(
        reader=reader,
        invalidator=invalidator,
        watcher=watcher,
        catalog=catalog,
        signer=TokenSigner.from_config(config.token),
        counts=counts,
        default_staleness=config.cache.max_staleness_default_seconds,
    )
    return Parts(servicer, watcher, reader, invalidator, checker, shards)
