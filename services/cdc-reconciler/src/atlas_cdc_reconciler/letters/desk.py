"""What operators do with dead letters; between the calls and the warehouse."""

from dataclasses import dataclass

from atlas_cdc_reconciler.letters import Action, Letter, LetterFilter, Replayed, Request
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.sink.letter_store import letter_of, parameters_of
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.sink.replaying import action_of
from atlas_common import errors

_RAW_BYTES_MAX = 8 * 2**20  # Of one page: half of what a message may have.


@dataclass(frozen=True, slots=True)
class Page:
    """Letters, oldest first."""

    letters: tuple[Letter, ...]
    total_count: int
    """Of all pages."""
    has_more: bool


@dataclass(frozen=True, slots=True)
class TableBooks:
    """What became of one table's changes of one tenant."""

    table: str
    tenant: str
    read: int
    applied: int
    dead_lettered: int
    skipped: int


class LetterDesk:
    """Lists letters, has them replayed or discarded."""

    def __init__(self, warehouse: DuckDbWarehouse) -> None:
        self._warehouse = warehouse

    async def tenant_id(self, key: str) -> int:
        """The tenant of this key, as the warehouse knows it. Raises ServiceError NOT_FOUND."""
        async with self._warehouse.reader() as reader:
            rows = await reader.all(Q["tenant_by_key"], {"key": key})
        if not rows:
            raise errors.not_found(
                "TENANT_UNKNOWN", f"the warehouse has no tenant {key!r}", field="filter.tenant"
            )
        return int(rows[0][0])

    async def page(self, matching: LetterFilter, after: int, limit: int, *, with_raw: bool) -> Page:
        """The letters that match behind the one with this number."""
        parameters = parameters_of(matching)
        async with self._warehouse.reader() as reader:
            ((total,),) = await reader.all(Q["letters_count"], parameters)
            letters: list[Letter] = []
            has_more = False
            size = 0
            # One more than asked for tells whether there is a next page.
            page = {**parameters, "after": after, "limit": limit + 1, "with_raw": False}
            for row in await reader.all(Q["letters_page"], page):
                letter = letter_of(row)
                size += letter.byte_count if with_raw else 0
                if len(letters) == limit or (letters and size > _RAW_BYTES_MAX):
                    has_more = True
                    break
                letters.append(letter)
            if with_raw and letters:
                ids = [letter.letter_id for letter in letters]
                page |= {"letter_ids": ids, "limit": len(ids), "with_raw": True}
                letters = [letter_of(row) for row in await reader.all(Q["letters_page"], page)]
        return Page(tuple(letters), int(total), has_more)

    async def replay(self, request: Request, *, adopt_schema: bool) -> Replayed:
        """Apply letters. Raises ServiceError; FencedError is that of an instance that is over."""
        return await self._warehouse.replay(request, adopt_schema=adopt_schema)

    async def discard(self, request: Request, reason: str) -> int:
        """Give letters up; answers how many."""
        return await self._warehouse.discard(request, reason)

    async def actions(self, before: int, limit: int) -> list[Action]:
        """The audit, newest first."""
        async with self._warehouse.reader() as reader:
            rows = await reader.all(Q["letter_actions"], {"before": before, "limit": limit})
        return [action_of(row) for row in rows]

    async def books(self) -> list[TableBooks]:
        """The books of all tables and tenants."""
        async with self._warehouse.reader() as reader:
            return [TableBooks(*row) for row in await reader.all(Q["books"])]
