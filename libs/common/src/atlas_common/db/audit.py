"""The audit log in Postgres: entries are added, and nothing else can be done to them."""

from atlas_common.audit import Act
from atlas_common.db.database import Database
from atlas_common.db.queries import load_queries
from atlas_common.db.tenancy import tenant_transaction

_QUERIES = load_queries("atlas_common.db")
_PLATFORM = 0
_NAME_CHARACTERS_MAX = 250  # Of up to four bytes each.


class AuditLog:
    """Adds to the table `audit_log`, each entry in a transaction of its own."""

    def __init__(self, primary: Database) -> None:
        self._primary = primary

    async def begin(self, act: Act) -> None:
        """Enter that the act begins. Raises as `Database.transaction`, or psycopg.Error."""
        await self._add(act, "begun", request=act.request)

    async def end(self, act: Act, outcome: str) -> None:
        """Enter how it ended; as `begin`. `outcome`: the name of a status code."""
        await self._add(act, "ended", outcome=outcome)

    async def _add(self, act: Act, event: str, *, request: str = "", outcome: str = "") -> None:
        values = {
            "tenant_id": _PLATFORM if act.tenant is None else act.tenant.id,
            "act": act.id,
            "event": event,
            "actor": _name(act.caller.subject),
            "actor_kind": act.caller.kind.value,
            "actor_tenant": _name(act.caller.tenant or ""),
            "method": act.method,
            "request_id": act.request_id,
            "request": request,
            "outcome": outcome,
        }
        if act.tenant is None:
            async with self._primary.transaction() as platform:
                await platform.execute(_QUERIES["enter_act"], values)
            return
        async with tenant_transaction(self._primary, act.tenant) as connection:
            await connection.execute(_QUERIES["enter_act"], values)


def _name(name: str) -> str:
    """What a column of text takes: an issuer may put anything into a subject."""
    shown = name.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return shown[:_NAME_CHARACTERS_MAX]
