"""The scope that refuses calls while something is missing that all of them need."""

from typing import Any

from atlas_common.rpc.readiness import Check
from atlas_common.rpc.scope import Call, Proceed


class Requirement:
    """Callers that were told several addresses do not ask which of them is ready."""

    def __init__(self, check: Check) -> None:
        self._check = check

    async def met(self, call: Call, proceed: Proceed) -> Any:  # noqa: ARG002
        """Raises what the check raises."""
        await self._check()
        return await proceed()
