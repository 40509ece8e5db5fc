"""What the contract says about who may call a method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from atlas.type.v1 import access_pb2
from atlas_common.caller import METHOD_SCOPES
from atlas_common.errors import FatalError


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call a method."""

    scope: str
    tenantless: bool = False
    """The call is no tenant's."""
    audited: bool = False
    """It is an administrative act: the audit log tells who made it."""


Accesses = Mapping[str, Access]
"""By "/package.Service/Method"."""


def declared_access(services: Sequence[ServiceDescriptor]) -> Accesses:
    """Of every method what its option `atlas.type.v1.access` says.

    Raises FatalError, naming the method, if one says nothing, or names a scope that there is not:
    open to everybody by an oversight is what must not happen.
    """
    return {
        f"/{service.full_name}/{method.name}": _declared(method)
        for service in services
        for method in service.methods
    }


def _declared(method: MethodDescriptor) -> Access:
    options = method.GetOptions()
    if not options.HasExtension(access_pb2.access):
        raise FatalError(
            f"{method.full_name} does not say who may call it:"
            " add the option (atlas.type.v1.access) to its definition"
        )
    declared = options.Extensions[access_pb2.access]
    if declared.scope not in METHOD_SCOPES:
        raise FatalError(
            f"{method.full_name} needs the scope {declared.scope!r}, which is none of"
            f" {', '.join(sorted(METHOD_SCOPES))}"
        )
    # So by what it is, not by an option more that somebody has to think of.
    reads = options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    return Access(
        scope=declared.scope,
        tenantless=declared.tenantless,
        audited=declared.scope.endswith(".admin") and not reads,
    )
