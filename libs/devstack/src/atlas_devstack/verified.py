"""What services are told so that they verify who calls: certificates, tokens, who calls whom."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atlas_devstack.authority import Authority, CertificateFiles
from atlas_devstack.issuer import AUDIENCE, ISSUER, Issuer
from atlas_devstack.ports import LOOPBACK, free_port

PEERS = {
    "hotcache": {
        "ingest.atlas": ["platform.internal"],
        "query.atlas": ["telemetry.read", "platform.status"],
    },
    "cdc-reconciler": {"query.atlas": ["telemetry.read", "platform.status"]},
}
"""Who is called by whom, by the name in his certificate, and may do what."""
_CALLS = {"ingest": ("hotcache",), "query": ("hotcache", "cdc-reconciler")}
_VARIABLES = {"hotcache": "ATLAS_HOTCACHE", "cdc-reconciler": "ATLAS_RECONCILER"}


@dataclass(frozen=True)
class Verified:
    """The settings of services that verify, and what to get in with."""

    authority: Authority
    issuer: Issuer
    key_set: Path
    certificates: dict[str, CertificateFiles]
    """By service."""
    peer_ports: dict[str, int]
    """Where services that others call answer to them."""
    environment: dict[str, dict[str, str]]
    """By service."""

    @classmethod
    def made(cls, directory: Path, services: Sequence[str]) -> "Verified":
        """Certificates and keys in a directory, and settings for these services."""
        authority, issuer = Authority(directory / "pki"), Issuer()
        key_set = directory / "jwks.json"
        issuer.publish(key_set)
        taken: set[int] = set()
        made = cls(
            authority,
            issuer,
            key_set,
            {name: authority.issue(LOOPBACK, "localhost", f"{name}.atlas") for name in services},
            {name: free_port(taken) for name in PEERS if name in services},
            {},
        )
        for name in services:
            made.environment[name] = {
                **made._own(name),
                "ATLAS_RPC__HEALTH_PORT": str(free_port(taken)),
                **made._let_in(name),
                **made._calling(name),
            }
        return made

    def _own(self, name: str) -> dict[str, str]:
        return {
            "ATLAS_ENVIRONMENT": "staging",
            "ATLAS_IDENTITY__MODE": "verified",
            "ATLAS_IDENTITY__JWT__JWKS": str(self.key_set),
            "ATLAS_IDENTITY__JWT__ISSUER": ISSUER,
            "ATLAS_IDENTITY__JWT__AUDIENCE": AUDIENCE,
            "ATLAS_RPC__TLS__CERTIFICATE_FILE": str(self.certificates[name].certificate),
            "ATLAS_RPC__TLS__KEY_FILE": str(self.certificates[name].key),
        }

    def _let_in(self, name: str) -> dict[str, str]:
        """Which other services may call this one, and where."""
        if name not in PEERS:
            return {}
        return {
            "ATLAS_RPC__TLS__CLIENT_CA_FILE": str(self.authority.ca_file),
            "ATLAS_RPC__PEER_PORT": str(self.peer_ports[name]),
            "ATLAS_IDENTITY__PEERS": json.dumps(PEERS[name]),
        }

    def _calling(self, name: str) -> dict[str, str]:
        """Which other services this one calls, and with what."""
        variables: dict[str, str] = {}
        for called in _CALLS.get(name, ()):
            if called in self.peer_ports:
                prefix, own = _VARIABLES[called], self.certificates[name]
                variables |= {
                    f"{prefix}__TARGET": f"{LOOPBACK}:{self.peer_ports[called]}",
                    f"{prefix}__TLS__CA_FILE": str(self.authority.ca_file),
                    f"{prefix}__TLS__CERTIFICATE_FILE": str(own.certificate),
                    f"{prefix}__TLS__KEY_FILE": str(own.key),
                }
        return variables
