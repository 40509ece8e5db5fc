"""gRPC: the chain every call passes, a server's life, channels to peers."""

from atlas_common.background import Supervisor
from atlas_common.call import request_id
from atlas_common.rpc import deadline
from atlas_common.rpc.access import Access, Accesses, declared_access
from atlas_common.rpc.authenticator import Authenticator, Insecure, authenticator
from atlas_common.rpc.chain import call_chain
from atlas_common.rpc.channel import open_channel
from atlas_common.rpc.identity import TENANT_KEY, TenantResolver
from atlas_common.rpc.observation import REQUEST_ID_KEY
from atlas_common.rpc.readiness import Check
from atlas_common.rpc.run import run
from atlas_common.rpc.serve import new_server, serve

__all__ = [
    "REQUEST_ID_KEY",
    "TENANT_KEY",
    "Access",
    "Accesses",
    "Authenticator",
    "Check",
    "Insecure",
    "Supervisor",
    "TenantResolver",
    "authenticator",
    "call_chain",
    "deadline",
    "declared_access",
    "new_server",
    "open_channel",
    "request_id",
    "run",
    "serve",
]
