"""Client certificates as identities."""

from collections.abc import Iterable, Mapping, Sequence

from atlas_common.caller import Caller, CallerKind

AuthContext = Mapping[str, Iterable[bytes]]
"""What gRPC tells of a connection's security."""
_URI, _DNS = "peer_uri", "peer_dns"


class Peers:
    """The parts of the platform that are known, by a name in their certificates.

    A name is a subject alternative name: a URI (it has a "://") or a DNS name. The common name is
    looked at nowhere: authorities do not vouch for it.
    """

    def __init__(self, scopes: Mapping[str, Sequence[str]]) -> None:
        self._known = {
            (_URI if "://" in name else _DNS, name.encode()): Caller(
                subject=name, kind=CallerKind.SERVICE, scopes=frozenset(of_it)
            )
            for name, of_it in scopes.items()
        }

    def find(self, context: AuthContext) -> Caller | None:
        """The peer at the other end; None for a certificate with no name that is known."""
        for kind in (_URI, _DNS):
            for name in context.get(kind, ()):
                known = self._known.get((kind, name))
                if known is not None:
                    return known
        return None


def has_certificate(context: AuthContext) -> bool:
    """Whether the other end has shown a certificate, which TLS has then verified."""
    return "x509_pem_cert" in context
