"""Writes that end in an acknowledgement, whatever dies meanwhile."""

import asyncio
import time
import uuid
from collections.abc import Sequence

import grpc

from atlas_client import AtlasClient, AtlasError, Point, WriteResult
from atlas_devstack.demo.tally import Tally

SETTLE_SECONDS_MAX = 90.0
"""How long one write is sent again and again. A service is back within seconds."""
_ATTEMPT_SECONDS = 15.0
_PAUSE_SECONDS = 0.2


class UnsettledError(Exception):
    """Nobody acknowledged or refused a write in all this time."""


class Writer:
    """Writes for one tenant, and counts what was acknowledged."""

    def __init__(self, client: AtlasClient, tenant: str, tally: Tally) -> None:
        self._client = client
        self._tenant = tenant
        self._tally = tally

    async def write(self, points: Sequence[Point]) -> WriteResult:
        """Write until it is acknowledged, always with the same request id.

        Raises UnsettledError, and AtlasError when the platform refuses the points.
        """
        request_id = str(uuid.uuid4())
        began = time.monotonic()
        while True:
            try:
                result = await self._client.write(
                    points, request_id=request_id, timeout=_ATTEMPT_SECONDS
                )
            except AtlasError as error:
                if not _is_open(error):
                    self._tally.problem(f"{self._tenant}: a write was refused: {error}")
                    raise
                if time.monotonic() - began > SETTLE_SECONDS_MAX:
                    self._tally.unsettled[self._tenant] += len(points)
                    self._tally.problem(f"{self._tenant}: a write was never answered: {error}")
                    raise UnsettledError from error
                self._tally.repeated_writes += 1
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                self._tally.ack.add(time.monotonic() - began)
                self._tally.writes += 1
                self._tally.acknowledged[self._tenant] += result.accepted_count
                self._tally.duplicate_answers += result.duplicate
                return result


def _is_open(error: AtlasError) -> bool:
    """Whether the points may yet be stored: nobody has judged them."""
    return (
        not error.reason  # Not a service's word: the connection broke.
        or error.is_transient
        or error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    )
