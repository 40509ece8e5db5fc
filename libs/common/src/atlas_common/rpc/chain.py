"""What every call passes through, outermost first."""

from collections.abc import Sequence

from atlas_common.config import QuotaConfig, RpcConfig
from atlas_common.metering import QuotaMeters
from atlas_common.rpc.access import Accesses
from atlas_common.rpc.access_log import AccessLog
from atlas_common.rpc.admission import Admission
from atlas_common.rpc.auditing import ActLog, Auditing
from atlas_common.rpc.authenticator import Authenticator
from atlas_common.rpc.deadline import Deadline
from atlas_common.rpc.failures import failures_reported
from atlas_common.rpc.identity import Identity, TenantResolver
from atlas_common.rpc.metering import Metering
from atlas_common.rpc.observation import Observation
from atlas_common.rpc.scope import Scope


def call_chain(
    config: RpcConfig,
    *,
    authenticator: Authenticator,
    tenants: TenantResolver,
    accesses: Accesses,
    meters: QuotaMeters | None = None,
    audit: ActLog | None = None,
) -> Sequence[Scope]:
    """The scopes in their order.

    `accesses`: see `declared_access()`. What is not in it nobody may call; health checks and
    reflection, which everybody may, run outside of the scopes. `audit`: needed by services with
    administrative methods. `meters`: of the quotas, where the service itself counts as well;
    without, those of the usual settings. Raises FatalError if such a service has none.
    """
    return [
        # First, so that the span, the log line and the metrics cover all the rest and its errors.
        Observation(AccessLog(config.logged_calls_per_second_max)).observed,
        # Before anything that may fail, so that every failure has a reason and leaks nothing.
        failures_reported,
        # Before any work: refusing has to be cheap to be of use.
        Admission(config.max_concurrent_rpcs).admitted,
        # Before the tenant, whose look-up may wait for a database.
        Deadline(config).kept,
        # A handler runs with its caller and tenant known.
        Identity(authenticator, tenants, accesses).known,
        # Before anything is entered: a refused flood of calls must not reach the database.
        Metering(QuotaMeters(QuotaConfig()) if meters is None else meters).metered,
        # Last: only what may be done is entered, and as whose it is done.
        Auditing(audit, accesses).audited,
    ]
