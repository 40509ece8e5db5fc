"""What the platform does by itself again and again, and how often."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from atlas.catalog.v1 import policy_service_pb2 as pb
from atlas_client import convert
from atlas_client.call import Caller
from atlas_client.values import to_timestamp

if TYPE_CHECKING:  # This class exists for type checkers alone.
    from atlas.catalog.v1.policy_service_pb2_grpc import PolicyServiceAsyncStub

_LOOK_SECONDS = 0.25
_STATUSES = {
    pb.POLICY_RUN_STATUS_RUNNING: "running",
    pb.POLICY_RUN_STATUS_SUCCESS: "success",
    pb.POLICY_RUN_STATUS_UNFINISHED: "unfinished",
    pb.POLICY_RUN_STATUS_FAILED: "failed",
    pb.POLICY_RUN_STATUS_INTERRUPTED: "interrupted",
}


@dataclass(frozen=True, slots=True)
class PolicyRun:
    """The last run of its kind."""

    status: str
    """running, success, unfinished (repeated soon), failed or interrupted."""
    start_time: datetime | None
    end_time: datetime | None
    summary: str
    runner: str
    run_count: int
    failure_count: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A job that is done again and again."""

    policy_id: int
    job: str
    default: bool
    """Made by the service whose job it is."""
    tenants: tuple[str, ...]
    """Empty: all."""
    schedule_interval: timedelta | None
    """None: it never runs by itself."""
    interval_from_settings: bool
    scheduled: bool
    next_start_time: datetime | None
    last_run: PolicyRun | None
    last_dry_run: PolicyRun | None
    requested: bool


class PolicyAdmin:
    """Administers policies; AtlasClient.policies makes it. Needs no tenant.

    Every method raises AtlasError, with POLICY_UNKNOWN for a policy or a job that is not there.
    """

    def __init__(self, stub: "PolicyServiceAsyncStub", caller: Caller) -> None:
        self._stub = stub
        self._caller = caller

    async def list(self, *, timeout: float | None = None) -> list[Policy]:
        """All of them, by job, the default one first."""
        request = pb.ListPoliciesRequest()
        answer = await self._caller.unary(self._stub.ListPolicies, request, timeout=timeout)
        return [_policy(each) for each in answer.policies]

    async def add(
        self,
        job: str,
        every: timedelta,
        *,
        tenants: Sequence[str] = (),
        first: datetime | None = None,
        timeout: float | None = None,
    ) -> Policy:
        """Have a job done also so often, or for these tenants alone; again, it adds nothing."""
        request = pb.AddPolicyRequest(job=job, tenants=tenants)
        request.schedule_interval.FromTimedelta(every)
        if first is not None:
            request.next_start_time.CopyFrom(to_timestamp(first))
        answer = await self._caller.unary(self._stub.AddPolicy, request, timeout=timeout)
        return _policy(answer.policy)

    async def alter(
        self,
        policy_id: int,
        *,
        every: timedelta | None = None,
        every_from_settings: bool = False,
        scheduled: bool | None = None,
        tenants: Sequence[str] | None = None,
        next_start: datetime | None = None,
        timeout: float | None = None,
    ) -> Policy:
        """Change what is given; at least one thing."""
        request = pb.AlterPolicyRequest(policy=pb.Policy(policy_id=policy_id))
        changed = request.update_mask.paths
        if every is not None or every_from_settings:
            if every is not None:
                request.policy.schedule_interval.FromTimedelta(every)
            changed.append("schedule_interval")
        if scheduled is not None:
            request.policy.scheduled = scheduled
            changed.append("scheduled")
        if tenants is not None:
            request.policy.tenants.extend(tenants)
            changed.append("tenants")
        if next_start is not None:
            request.policy.next_start_time.CopyFrom(to_timestamp(next_start))
            changed.append("next_start_time")
        answer = await self._caller.unary(self._stub.AlterPolicy, request, timeout=timeout)
        return _policy(answer.policy)

    async def remove(self, policy_id: int, *, timeout: float | None = None) -> None:
        """Take away one that was added."""
        request = pb.RemovePolicyRequest(policy_id=policy_id)
        await self._caller.unary(self._stub.RemovePolicy, request, timeout=timeout)

    async def run(
        self, policy_id: int, *, dry_run: bool = False, wait_timeout: float = 60.0
    ) -> PolicyRun:
        """Have it run, and wait for what comes of it.

        Raises TimeoutError if it has not ended in time; it goes on.
        """
        request = pb.RunPolicyRequest(policy_id=policy_id, dry_run=dry_run)
        asked = await self._caller.unary(self._stub.RunPolicy, request)
        since = convert.moment(asked, "request_time")
        async with asyncio.timeout(wait_timeout):
            while True:
                found = {each.policy_id: each for each in await self.list()}.get(policy_id)
                last = (
                    None if found is None else (found.last_dry_run if dry_run else found.last_run)
                )
                if (
                    last is not None
                    and last.end_time is not None
                    and last.start_time is not None
                    and since is not None
                    and last.start_time >= since
                ):
                    return last
                await asyncio.sleep(_LOOK_SECONDS)


def _policy(message: pb.Policy) -> Policy:
    return Policy(
        policy_id=message.policy_id,
        job=message.job,
        default=message.default,
        tenants=tuple(message.tenants),
        schedule_interval=convert.span(message, "schedule_interval"),
        interval_from_settings=message.interval_from_settings,
        scheduled=message.scheduled,
        next_start_time=convert.moment(message, "next_start_time"),
        last_run=_run(message.last_run) if message.HasField("last_run") else None,
        last_dry_run=_run(message.last_dry_run) if message.HasField("last_dry_run") else None,
        requested=message.requested,
    )


def _run(message: pb.PolicyRun) -> PolicyRun:
    return PolicyRun(
        status=_STATUSES.get(message.status, "unknown"),
        start_time=convert.moment(message, "start_time"),
        end_time=convert.moment(message, "end_time"),
        summary=message.summary,
        runner=message.runner,
        run_count=message.run_count,
        failure_count=message.failure_count,
    )
