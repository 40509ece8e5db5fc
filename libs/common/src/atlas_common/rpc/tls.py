"""Certificates of servers and channels, renewed without a restart."""

from pathlib import Path

import grpc
from cryptography import x509

from atlas.wire.pem import Pem, PemFiles
from atlas_common.config import ChannelTlsConfig, ServerTlsConfig
from atlas_common.errors import FatalError
from atlas_common.telemetry import metrics
from atlas_common.telemetry.logs import logger

_log = logger(__name__)


def server_credentials(
    config: ServerTlsConfig, *, asks_for_certificates: bool
) -> grpc.ServerCredentials:
    """TLS with the files' certificate, which every handshake reads again if it has changed.

    `asks_for_certificates`: who shows none, or one of another authority, is not let in. Raises
    FatalError if the files cannot be used.
    """
    try:
        files = PemFiles(
            ca=Path(config.client_ca_file)
            if config.client_ca_file and asks_for_certificates
            else None,
            certificate=Path(config.certificate_file),
            key=Path(config.key_file),
        )
    except ValueError as error:
        raise FatalError(f"ATLAS_RPC__TLS__*: {error}") from None
    _shown[config.certificate_file] = files
    renewal = _Renewal(files)
    return grpc.dynamic_ssl_server_credentials(
        _configuration(renewal.given),
        renewal.fetch,  # type: ignore[arg-type]  # None is what says "as before".
        require_client_authentication=asks_for_certificates,
    )


def client_pem(config: ChannelTlsConfig) -> PemFiles:
    """The files of a channel. Raises FatalError if they cannot be used."""
    try:
        files = PemFiles(
            ca=_path(config.ca_file),
            certificate=_path(config.certificate_file),
            key=_path(config.key_file),
        )
    except ValueError as error:
        raise FatalError(f"the certificates of a channel: {error}") from None
    if config.certificate_file is not None:
        _shown[config.certificate_file] = files
    return files


def expiries() -> dict[str, float]:
    """When each certificate that this process shows runs out, in seconds since 1970, by its file.

    Of those that are in use, also when the file holds a newer one that cannot be taken.
    """
    pems = {name: files.current() for name, files in tuple(_shown.items())}
    return {
        name: x509.load_pem_x509_certificate(pem.certificate).not_valid_after_utc.timestamp()
        for name, pem in pems.items()
        if pem.certificate is not None
    }


_shown: dict[str, PemFiles] = {}
metrics.gauge(
    "atlas.tls.certificate_expires", "s", "When it runs out, in seconds since 1970.", expiries
)


class _Renewal:
    """What gRPC asks at each handshake, in a thread of its own."""

    def __init__(self, files: PemFiles) -> None:
        self._files = files
        self._problem: str | None = None
        self.given = files.current()

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The new certificates; None if they are the old ones."""
        pem = self._files.current()
        if self._files.problem != self._problem:
            self._problem = self._files.problem
            if self._problem is not None:
                _log.warning("new certificates are not taken", problem=self._problem)
        if pem is self.given:
            return None
        self.given = pem
        _log.info("certificates are renewed")
        return _configuration(pem)


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    assert pem.key is not None
    assert pem.certificate is not None
    return grpc.ssl_server_certificate_configuration(
        [(pem.key, pem.certificate)], root_certificates=pem.ca
    )


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)
