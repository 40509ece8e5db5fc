"""Dead letters in tests: asking for them, replaying them, and changes that become some."""

from atlas_cdc_reconciler.letters import Letter, LetterFilter, Request

from .reconciler_rig import Rig, Running


def asked(
    matching: LetterFilter | None = None, *, dry_run: bool = False, request_id: str = ""
) -> Request:
    """A request of this test's, for all letters unless it is said which."""
    chosen = matching or LetterFilter()
    return Request(request_id, "test", "here", chosen, str(chosen), dry_run)


async def letters(running: Running, matching: LetterFilter | None = None) -> tuple[Letter, ...]:
    """The open letters, oldest first."""
    page = await running.desk.page(matching or LetterFilter(), 0, 1000, with_raw=False)
    return page.letters


def insert_poison(rig: Rig, tenant_id: int, values: list[float]) -> None:
    """Points that no decimal of the warehouse can hold; each has its own entity, by value."""
    rig.admin.execute(
        "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time,"
        " ingested_at, value_decimal)"
        " SELECT %s, 7, v::bigint, to_timestamp(v), to_timestamp(v), 'NaN'"
        " FROM unnest(%s::float8[]) AS u (v)",
        [tenant_id, values],
    )
