"""An authority of certificates, for tests and development."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


@dataclass(frozen=True)
class CertificateFiles:
    """A certificate with its chain, and its key."""

    certificate: Path
    key: Path

    def replace_with(self, other: "CertificateFiles") -> None:
        """Put another certificate in this one's place, as who renews certificates does."""
        self.key.write_bytes(other.key.read_bytes())
        self.certificate.write_bytes(other.certificate.read_bytes())


class Authority:
    """Issues certificates into a directory."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._ca = trustme.CA()
        self._directory = directory
        self._issued = 0
        self._name = name
        directory.mkdir(parents=True, exist_ok=True)
        self.ca_file = directory / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.ca_file)

    def issue(
        self,
        *names: str,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> CertificateFiles:
        """A certificate for these DNS names and addresses, or for one URI."""
        cert = self._ca.issue_cert(*names, not_before=not_before, not_after=not_after)
        return self._written(
            cert.private_key_pem.bytes(), b"".join(pem.bytes() for pem in cert.cert_chain_pems)
        )

    def issue_uri(self, uri: str) -> CertificateFiles:
        """A certificate for a URI, such as spiffe://atlas/query."""
        cert = self._ca.issue_cert("unused.invalid")  # trustme knows no URIs: signed again.
        pem = cert.cert_chain_pems[0].bytes()
        template = x509.load_pem_x509_certificate(pem)
        own = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(own, EllipticCurvePrivateKey)
        builder = x509.CertificateBuilder(
            issuer_name=template.issuer,
            subject_name=template.subject,
            public_key=template.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=template.not_valid_before_utc,
            not_valid_after=template.not_valid_after_utc,
        ).add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True
        )
        signed = builder.sign(own, hashes.SHA256())
        return self._written(
            cert.private_key_pem.bytes(), signed.public_bytes(serialization.Encoding.PEM)
        )

    def _written(self, key: bytes, certificate: bytes) -> CertificateFiles:
        self._issued += 1
        stem = f"{self._name}-{self._issued}"
        files = CertificateFiles(self._directory / f"{stem}.pem", self._directory / f"{stem}.key")
        files.certificate.write_bytes(certificate)
        files.key.touch(mode=0o600)
        files.key.write_bytes(key)
        return files
