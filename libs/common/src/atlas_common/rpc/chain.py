"""What every call passes through, outermost first."""

from collections.abc import Sequence

from atlas_common.config import RpcConfig
from atlas_common.rpc.access_log import AccessLog
from atlas_common.rpc.admission import Admission
from atlas_common.rpc.deadline import Deadline
from atlas_common.rpc.failures import failures_reported
from atlas_common.rpc.identity import Authenticator, Identity, TenantResolver
from atlas_common.rpc.observation import Observation
from atlas_common.rpc.scope import Scope


def call_chain(
    config: RpcConfig,
    *,
    authenticator: Authenticator,
    tenants: TenantResolver | None,
    tenantless: frozenset[str] = frozenset(),
) -> Sequence[Scope]:
    """The scopes in their order.

    `tenantless`: methods, as "/package.Service/Method", that belong to no tenant; health checks and
    reflection never do. With `tenants=None` no method has a tenant.
    """
    chain: list[Scope] = [
        # First, so that the span, the log line and the metrics cover all the rest and its errors.
        Observation(AccessLog(config.logged_calls_per_second_max)).observed,
        # Before anything that may fail, so that every failure has a reason and leaks nothing.
        failures_reported,
        # Before any work: refusing has to be cheap to be of use.
        Admission(config.max_concurrent_rpcs).admitted,
        # Before the tenant, whose look-up may wait for a database.
        Deadline(config).kept,
    ]
    if tenants is not None:
        # Last: a handler runs with its tenant known.
        chain.append(Identity(authenticator, tenants, tenantless).known)
    return chain
