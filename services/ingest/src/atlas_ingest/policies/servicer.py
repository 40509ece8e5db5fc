"""PolicyService over gRPC."""

from typing import Any

import grpc.aio
from typing_extensions import override

from atlas.catalog.v1 import policy_service_pb2 as pb
from atlas.catalog.v1 import policy_service_pb2_grpc
from atlas_ingest.policies import convert
from atlas_ingest.policies.store import Policies

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE = pb.DESCRIPTOR.services_by_name["PolicyService"]


class PolicyServicer(policy_service_pb2_grpc.PolicyServiceServicer):
    """See policy_service.proto for what the calls promise."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    @override
    async def ListPolicies(
        self, request: pb.ListPoliciesRequest, context: Context
    ) -> pb.ListPoliciesResponse:
        """All of them."""
        rows = await self._policies.all()
        return pb.ListPoliciesResponse(policies=map(convert.policy_message, rows))

    @override
    async def AddPolicy(
        self, request: pb.AddPolicyRequest, context: Context
    ) -> pb.AddPolicyResponse:
        """Another policy of a job."""
        row = await self._policies.add(request.job, convert.added(request))
        return pb.AddPolicyResponse(policy=convert.policy_message(row))

    @override
    async def AlterPolicy(
        self, request: pb.AlterPolicyRequest, context: Context
    ) -> pb.AlterPolicyResponse:
        """Change what the mask names."""
        row = await self._policies.alter(request.policy.policy_id, convert.altered(request))
        return pb.AlterPolicyResponse(policy=convert.policy_message(row))

    @override
    async def RemovePolicy(
        self, request: pb.RemovePolicyRequest, context: Context
    ) -> pb.RemovePolicyResponse:
        """Take it away."""
        await self._policies.remove(request.policy_id)
        return pb.RemovePolicyResponse()

    @override
    async def RunPolicy(
        self, request: pb.RunPolicyRequest, context: Context
    ) -> pb.RunPolicyResponse:
        """Ask for a run."""
        moment = await self._policies.request(request.policy_id, dry_run=request.dry_run)
        return pb.RunPolicyResponse(request_time=convert.timestamp(moment))
