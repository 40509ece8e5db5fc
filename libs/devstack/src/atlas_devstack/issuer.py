"""An issuer of tokens, for tests and development: keys, their public set, and what it signs."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

Algorithm = Literal["RS256", "ES256", "EdDSA"]
ISSUER = "https://issuer.atlas.test"
AUDIENCE = "atlas"
LIFE_SECONDS = 600

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Issuer:
    """Signs with its newest key; publishes all that it has not withdrawn."""

    def __init__(self, algorithm: Algorithm = "ES256") -> None:
        self._keys: dict[str, tuple[Algorithm, PrivateKey]] = {}
        self._made = 0
        self.rotate(algorithm)

    def rotate(self, algorithm: Algorithm = "ES256") -> str:
        """Sign with a new key from now on; returns its id."""
        self._made += 1
        self.key_id = f"key-{self._made}"
        self._keys[self.key_id] = (algorithm, _made(algorithm))
        return self.key_id

    def withdraw(self, key_id: str) -> None:
        """Publish a key no longer: what it signed is to be refused."""
        del self._keys[key_id]

    def private_key(self, key_id: str | None = None) -> PrivateKey:
        """A key itself, to do with it what an issuer would not."""
        return self._keys[key_id or self.key_id][1]

    def key_set(self) -> bytes:
        """The public keys as a JSON Web Key Set."""
        keys = [
            {**_public(private), "kid": key_id, "use": "sig", "alg": algorithm}
            for key_id, (algorithm, private) in self._keys.items()
        ]
        return json.dumps({"keys": keys}).encode()

    def publish(self, path: Path) -> None:
        """Write the key set to a file, whole or not at all."""
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(self.key_set())
        partial.replace(path)

    def token(
        self,
        *,
        tenant: str | None = None,
        scopes: Sequence[str] = (),
        subject: str = "tester",
        **claims: Any,
    ) -> str:
        """A token; `claims` are added, replace the usual ones, or with None take them out."""
        now = int(time.time())
        usual = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "nbf": now,
            "exp": now + LIFE_SECONDS,
            "scope": " ".join(scopes),
            "tenant": tenant,
        }
        return self.signed({**usual, **claims})

    def signed(self, claims: dict[str, Any], **header: Any) -> str:
        """These claims, without those that are None, signed with the newest key."""
        algorithm, private = self._keys[self.key_id]
        given = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(
            given, private, algorithm=algorithm, headers={"kid": self.key_id, **header}
        )


def _made(algorithm: Algorithm) -> PrivateKey:
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()


def _public(private: PrivateKey) -> dict[str, Any]:
    match private:
        case rsa.RSAPrivateKey():
            return dict(RSAAlgorithm.to_jwk(private.public_key(), as_dict=True))
        case ec.EllipticCurvePrivateKey():
            return dict(ECAlgorithm.to_jwk(private.public_key(), as_dict=True))
        case ed25519.Ed25519PrivateKey():
            return dict(OKPAlgorithm.to_jwk(private.public_key(), as_dict=True))
