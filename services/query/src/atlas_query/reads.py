"""The reads themselves: names to ids, to the tier that answers, and back to names."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from atlas_common import errors, sqlstate
from atlas_common.catalog import AttributeDef, Catalog
from atlas_common.db import BehindError, ReadConnection
from atlas_common.tenant import Tenant
from atlas_common.values import us_to_datetime
from atlas_query import metrics, point_store, store
from atlas_query.consistency import Consistency
from atlas_query.definitions import definitions
from atlas_query.endpoint import Serving
from atlas_query.filters import (
    ColdMatch,
    Match,
    attribute_names,
    check_filter,
    compile_cold_filter,
    compile_filter,
    unknown_attribute,
)
from atlas_query.history import GroupTooLargeError, HistoryCut
from atlas_query.hot import HotCache
from atlas_query.policy import asks_cache
from atlas_query.readings import EntityReadings, Mask, Reading, by_entity
from atlas_query.requests import HistoryRange, Page
from atlas_query.router import Answer, QueryRouter
from atlas_query.store import HotRow, PointRow

PAIRS_MAX = store.READINGS_MAX
_REFRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """The entities of an answer, in the order asked, and the keys that no entity has."""

    entities: list[EntityReadings]
    not_found_keys: list[str]


@dataclass(frozen=True, slots=True)
class HistoryPart:
    """A part of a history; in the last one, where to go on if the limit was reached."""

    readings: list[Reading]
    next_start_us: int | None = None


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How fresh a read must be, and how long it may wait for that."""

    consistency: Consistency
    wait_seconds: float


class Reads:
    """Answers reads of one tenant at a time."""

    def __init__(
        self,
        router: QueryRouter,
        catalog: Catalog,
        hot: HotCache | None,
        *,
        cold_find_seconds_max: float = 5.0,
    ) -> None:
        """`cold_find_seconds_max`: of a statement that filters by cold attributes."""
        self._cold_find_seconds_max = cold_find_seconds_max
        self._router = router
        self._catalog = catalog
        self._hot = hot

    async def mask(
        self, tenant: Tenant, names: Sequence[str], *, is_all: bool, field: str = "attributes"
    ) -> Mask:
        """The attributes of these names; of none, as `is_all` says: all or the hot ones.

        Raises ServiceError INVALID_ARGUMENT / ATTRIBUTE_UNKNOWN, naming the first unknown one.
        """
        if not names:
            return Mask(None, is_all)
        wanted = list(dict.fromkeys(names))
        found = await self._catalog.find_attributes(tenant, wanted)
        for name in wanted:
            if name not in found:
                raise unknown_attribute(name, field)
        return Mask(tuple(found[name] for name in wanted))

    async def get_entities(
        self, tenant: Tenant, keys: Sequence[str], mask: Mask, options: ReadOptions
    ) -> Answer[Found]:
        """The latest values of entities."""
        ids = await self._catalog.entity_ids(tenant, keys)
        entities = [(ids[key], key) for key in keys if key in ids]
        not_found = [key for key in dict.fromkeys(keys) if key not in ids]
        entity_ids = list(dict.fromkeys(entity_id for entity_id, _ in entities))
        _check_pairs(entity_ids, mask)
        found = await self._latest(tenant, entity_ids, mask, options)
        return Answer(Found(by_entity(entities, found.value), not_found), found.proof)

    async def find_entities(
        self, tenant: Tenant, page: Page, mask: Mask, options: ReadOptions
    ) -> Answer[tuple[list[EntityReadings], int | None]]:
        """A page of entities that match, and the id the next page begins after, if there is one."""
        known = await self._filterable(tenant, page)
        asked = _Asked(known, _compiled(page, known))

        async def read(serving: Serving) -> tuple[list[tuple[int, str]], "_Rows"]:
            found = await self._found(serving, tenant, page, asked)
            ids = [entity_id for entity_id, _ in found[: page.size]]
            _check_pairs(ids, mask)
            return found, await _rows(serving.connection, tenant, ids, mask)

        answer = await self._router.execute_query(
            tenant, options.consistency, options.wait_seconds, read
        )
        found, rows = answer.value
        shown = found[: page.size]
        self._catalog.put_entities(tenant, {key: entity_id for entity_id, key in shown})
        readings = await self._readings(tenant, rows)
        after = shown[-1][0] if len(found) > page.size else None
        return Answer((by_entity(shown, readings), after), answer.proof)

    async def get_history(
        self, tenant: Tenant, key: str, mask: Mask, wanted: HistoryRange, options: ReadOptions
    ) -> AsyncGenerator[Answer[HistoryPart], None]:
        """The points of an entity, oldest first; at least one part, from one snapshot.

        Of one event time they come by attribute, then as they were stored. Raises NOT_FOUND /
        ENTITY_UNKNOWN, INVALID_ARGUMENT / INVALID_FIELD (more points at one time than the limit).
        """
        ids = await self._catalog.entity_ids(tenant, [key])
        if key not in ids:
            raise errors.not_found(
                "ENTITY_UNKNOWN", f"there is no entity {key!r}", field="entity_key", entity_key=key
            )

        async def read(
            serving: Serving,
        ) -> AsyncGenerator[tuple[list[PointRow], int | None], None]:
            cut = HistoryCut[PointRow](wanted.limit)
            chunks = point_store.history(
                serving.connection,
                tenant.id,
                ids[key],
                attribute_ids=mask.attribute_ids,
                wanted=wanted,
                rows_max=cut.rows_max,
            )
            async with aclosing(chunks):
                async for chunk in chunks:
                    complete = cut.feed(chunk)
                    if complete:
                        yield complete, None
            yield cut.end()

        parts = self._router.stream_query(tenant, options.consistency, options.wait_seconds, read)
        try:
            async with aclosing(parts):
                async for part in parts:
                    rows, next_start_us = part.value
                    known = await self._definitions(tenant, rows)
                    readings = [store.point_reading(row, known[row.attribute_id]) for row in rows]
                    yield Answer(HistoryPart(readings, next_start_us), part.proof)
        except GroupTooLargeError as error:
            raise _too_many_at(error.event_us, wanted.limit) from None

    async def _filterable(self, tenant: Tenant, page: Page) -> dict[str, AttributeDef]:
        """The attributes of the filter, which can be asked as far as we know.

        Raises as check_filter(). Whether an index is ready is asked anew before that is denied: who
        has waited for it wants to use it.
        """
        names = attribute_names(page.filter)
        if not names:
            return {}
        known = await self._catalog.find_attributes(tenant, names)
        if (
            any(not one.is_hot and not one.is_indexed for one in known.values())
            and self._catalog.seconds_since_read(tenant) > _REFRESH_SECONDS
        ):
            self._catalog.drop_attributes(tenant)
            known = await self._catalog.find_attributes(tenant, names)
        check_filter(page.filter, known)
        return known

    async def _found(
        self, serving: Serving, tenant: Tenant, page: Page, asked: "_Asked"
    ) -> list[tuple[int, str]]:
        """A page, and one more entity if there is another page.

        Raises ATTRIBUTE_NOT_HOT if an attribute of the filter was demoted, or its index dropped;
        BehindError if this copy does not have all of it yet. What is hot and what is indexed, the
        snapshot says; what we remember said otherwise, so it is read again, once.
        """
        for _ in range(2):
            found, unready_ids = await store.find_entities(
                serving.connection,
                tenant.id,
                asked.match,
                [attribute.attribute_id for attribute in asked.known.values()],
                after=page.after,
                page_size=page.size + 1,
                cold_seconds_max=self._cold_find_seconds_max,
            )
            if not unready_ids:
                return found
            self._catalog.drop_attributes(tenant)
            known = await self._filterable(tenant, page)
            if known == asked.known:
                break
            asked = _Asked(known, _compiled(page, known))
        meaning = sqlstate.lookup(sqlstate.BEHIND)
        raise BehindError(
            meaning.code,
            meaning.reason,
            "this copy does not know yet that the filter's attributes are hot or indexed",
            retry_after=meaning.retry_after_seconds,
        )

    async def _latest(
        self, tenant: Tenant, entity_ids: list[int], mask: Mask, options: ReadOptions
    ) -> Answer[Mapping[int, list[Reading]]]:
        why_not_cached = ""
        consistency = options.consistency
        if self._hot and asks_cache(consistency, is_hot_only=mask.is_hot_only):
            hot = await self._hot.get_entities(tenant, entity_ids, mask.names, consistency)
            if not isinstance(hot, str):
                metrics.served(hot.proof)
                return Answer(hot.readings, hot.proof)
            why_not_cached = hot

        async def read(serving: Serving) -> "_Rows":
            return await _rows(serving.connection, tenant, entity_ids, mask)

        answer = await self._router.execute_query(tenant, consistency, options.wait_seconds, read)
        readings = await self._readings(tenant, answer.value)
        return Answer(readings, answer.proof.because(why_not_cached))

    async def _readings(self, tenant: Tenant, rows: "_Rows") -> dict[int, list[Reading]]:
        """Entity id -> its readings."""
        known = await self._definitions(tenant, [*rows.hot, *rows.points])
        readings: dict[int, list[Reading]] = {}
        for row in rows.hot:
            reading = store.hot_reading(row, known[row.attribute_id])
            readings.setdefault(row.entity_id, []).append(reading)
        for point in rows.points:
            reading = store.point_reading(point, known[point.attribute_id])
            readings.setdefault(point.entity_id, []).append(reading)
        return readings

    async def _definitions(
        self, tenant: Tenant, rows: Iterable[HotRow | PointRow]
    ) -> Mapping[int, AttributeDef]:
        """Definitions by id of all attributes in the rows."""
        return await definitions(self._catalog, tenant, {row.attribute_id for row in rows})


@dataclass(frozen=True, slots=True)
class _Asked:
    """A filter as the database is asked it, and what was known of its attributes."""

    known: Mapping[str, AttributeDef]
    match: Match | ColdMatch


def _compiled(page: Page, known: Mapping[str, AttributeDef]) -> Match | ColdMatch:
    is_hot = all(attribute.is_hot for attribute in known.values())
    return (compile_filter if is_hot else compile_cold_filter)(page.filter, known)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of the projection, or of the points; never both, so that one answer has one origin."""

    hot: Sequence[HotRow] = ()
    points: Sequence[PointRow] = ()


async def _rows(
    connection: ReadConnection, tenant: Tenant, entity_ids: list[int], mask: Mask
) -> _Rows:
    if not entity_ids:
        return _Rows()
    if mask.is_hot_only:
        hot = await store.hot_values(connection, tenant.id, entity_ids, mask.attribute_ids)
        if not hot.cold_ids:
            return _Rows(hot=hot.rows)
        # Not hot in this snapshot: the catalog that we remember is of another time. The points have
        # all there is, whatever is hot.
    points = await store.latest_values(connection, tenant.id, entity_ids, mask.attribute_ids)
    return _Rows(points=points)


def _check_pairs(entity_ids: Sequence[int], mask: Mask) -> None:
    """Refuse a question whose answer is too large before it is asked."""
    pairs = len(entity_ids) * len(mask.named or ())
    if pairs > PAIRS_MAX:
        raise errors.invalid_argument(
            "BATCH_TOO_LARGE",
            f"{len(entity_ids)} entities times {len(mask.named or ())} attributes is more than"
            f" {PAIRS_MAX} readings: ask for fewer at a time",
            readings_max=PAIRS_MAX,
        )


def _too_many_at(event_us: int, limit: int) -> errors.ServiceError:
    return errors.invalid_argument(
        "INVALID_FIELD",
        f"more than {limit} readings have the event time {us_to_datetime(event_us).isoformat()},"
        " and a history is never cut within one: raise the limit or name fewer attributes",
        field="limit",
        event_time_us=event_us,
    )
