"""The auditor finds what it is there for: each kind of damage, done by hand, is named."""

from .arena import TENANTS, Arena
from .audit import Snapshot, audit, compare, positions
from .ledger import Level, Outcome
from .load import Burst

DAMAGES = {
    "lost": "DELETE FROM entity_values_ts WHERE value_int % 2 = 0",
    "doubled": "INSERT INTO entity_values_ts SELECT * FROM entity_values_ts LIMIT 1",
    "foreign": "UPDATE entity_values_ts SET tenant_id = 3 - tenant_id WHERE value_int % 2 = 0",
    "altered": "UPDATE entity_values_ts SET event_time = event_time - interval '1 us'",
    "projections": "UPDATE entity_jsonb SET attrs = '{}'",
    "tokens": "UPDATE flush_positions SET sequence = 0",
}


async def test_every_kind_of_damage_is_found(arena: Arena) -> None:
    await arena.start_ingest()
    async with arena.door() as door, Burst.to(door, TENANTS, points=16) as clients:
        clients.send(4)
    found = await audit(arena.database, arena.ledger, Level.STAGED)
    assert found.problems() == {}
    assert found.stored == len(arena.ledger.points())
    promised = arena.ledger.promised(Level.STAGED)
    with arena.admin() as connection:
        for kind, damage in DAMAGES.items():
            with connection.transaction(force_rollback=True):
                connection.execute(damage)
                snapshot = Snapshot.read(connection, positions(promised))
            assert kind in compare(arena.ledger, promised, snapshot).problems(), kind
        snapshot = Snapshot.read(connection, positions(promised))
    assert not compare(arena.ledger, promised, snapshot).problems()
    promised[0].outcome = Outcome.REFUSED
    assert "refused" in compare(arena.ledger, [], snapshot).problems()
