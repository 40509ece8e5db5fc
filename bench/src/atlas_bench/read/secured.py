"""A second query and hotcache on the same servers, as outside of development.

Callers come by TLS with a token; query calls hotcache with its certificate.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from atlas_bench.errors import BenchError
from atlas_bench.read.job import Door
from atlas_bench.read.rig import Rig
from atlas_devstack.credentials import Credentials
from atlas_devstack.database import Database
from atlas_devstack.errors import DevstackError
from atlas_devstack.platform import ROLES, SERVICES
from atlas_devstack.ports import free_port
from atlas_devstack.services import Service, Wiring
from atlas_devstack.verified import Verified
from atlas_devstack.waiting import Patience

_NAMES = ("hotcache", "query")
_SCOPES = ("telemetry.read",)
_TOKEN_SECONDS = 24 * 3600


@contextmanager
def secured(rig: Rig, tenant: str) -> Iterator[Door]:
    """Start them beside the platform's own. Raises BenchError."""
    directory = rig.state / "secured"
    directory.mkdir()
    verified = Verified.made(directory, _NAMES)
    wiring = _wiring(rig)
    services = [
        Service(SERVICES[name], wiring, verified.environment[name], Patience(60.0))
        for name in _NAMES
    ]
    ends = int(time.time()) + _TOKEN_SECONDS
    token = verified.issuer.token(tenant=tenant, scopes=_SCOPES, exp=ends)
    try:
        for service in services:
            service.start()
        yield Door(wiring.target("query"), str(verified.authority.ca_file), token)
    except DevstackError as error:
        raise BenchError(f"the secured services did not start: {error}") from error
    finally:
        for service in reversed(services):
            service.stop()


def _wiring(rig: Rig) -> Wiring:
    known = Credentials.load_or_make(rig.state / "secrets.json", ROLES)
    directory, taken = rig.state / "secured", set[int]()
    return Wiring(
        database=Database(rig.endpoints.primary, known.roles),
        replicas={
            f"replica-{number}": Database(dsn, known.roles)
            for number, dsn in enumerate(rig.endpoints.replicas, 1)
        },
        valkey_url=rig.endpoints.valkey,
        credentials=known,
        ports={name: free_port(taken) for name in SERVICES},
        warehouse=directory / "warehouse",
        log_directory=directory,
        run_directory=directory,
        spans=False,
    )
