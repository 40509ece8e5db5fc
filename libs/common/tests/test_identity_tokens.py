"""Whose a token is, and which tokens are nobody's."""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from atlas_common.caller import Caller, CallerKind
from atlas_common.config import JwtConfig
from atlas_common.errors import ServiceError
from atlas_common.identity.key_source import KeySource
from atlas_common.identity.tokens import TOKEN_BYTES_MAX, TokenVerifier
from atlas_common.testing import FakeClock
from atlas_devstack.issuer import AUDIENCE, ISSUER, LIFE_SECONDS, Algorithm, Issuer


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    issuer = Issuer()
    issuer.publish(tmp_path / "jwks.json")
    return issuer


def verifier(
    tmp_path: Path, clock: Callable[[], float] = time.time, **changed: Any
) -> TokenVerifier:
    settings = {"jwks": str(tmp_path / "jwks.json"), "issuer": ISSUER, "audience": AUDIENCE}
    config = JwtConfig.model_validate({**settings, **changed})
    return TokenVerifier(config, KeySource.of(config), clock)


async def refusal(verifier: TokenVerifier, token: str) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await verifier.verify(token)
    assert caught.value.code.name == "UNAUTHENTICATED"
    for part in token.split("."):
        assert len(part) < 10 or part not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_token_says_whose_it_is(tmp_path: Path, algorithm: Algorithm) -> None:
    issuer = Issuer(algorithm)
    issuer.publish(tmp_path / "jwks.json")
    for tenant in ("acme", "globex"):
        token = issuer.token(tenant=tenant, subject="ann", scopes=["telemetry.read", "other"])
        assert await verifier(tmp_path).verify(token) == Caller(
            subject="ann",
            kind=CallerKind.USER,
            scopes=frozenset({"telemetry.read"}),
            tenant=tenant,
        )


async def test_claims_are_where_the_settings_say(tmp_path: Path, issuer: Issuer) -> None:
    changed = verifier(tmp_path, tenant_claim="https://atlas/org", scope_claim="roles")
    claims: dict[str, Any] = {"https://atlas/org": "globex", "roles": ["tenant.any"]}
    caller = await changed.verify(issuer.token(scopes=["telemetry.write"], **claims))
    assert caller.tenant == "globex"
    assert caller.scopes == frozenset({"tenant.any"})


async def test_what_services_tell_each_other_no_token_grants(
    tmp_path: Path, issuer: Issuer
) -> None:
    caller = await verifier(tmp_path).verify(issuer.token(scopes=["platform.internal"]))
    assert not caller.may("platform.internal")


@pytest.mark.parametrize(
    ("claims", "reason", "message"),
    [
        ({"exp": 1}, "CREDENTIALS_EXPIRED", "the token has ended"),
        ({"nbf": 2**33}, "CREDENTIALS_INVALID", "not valid yet"),
        ({"aud": "another"}, "CREDENTIALS_INVALID", "another audience"),
        ({"iss": "https://evil.test"}, "CREDENTIALS_INVALID", "another issuer"),
        ({"exp": None}, "CREDENTIALS_INVALID", "lacks the claim exp"),
        ({"aud": None}, "CREDENTIALS_INVALID", "lacks the claim aud"),
        ({"iss": None}, "CREDENTIALS_INVALID", "lacks the claim iss"),
        ({"sub": None}, "CREDENTIALS_INVALID", "lacks the claim sub"),
        ({"sub": ""}, "CREDENTIALS_INVALID", "sub is no name"),
        ({"sub": "x" * 257}, "CREDENTIALS_INVALID", "sub is no name"),
        ({"exp": "soon"}, "CREDENTIALS_INVALID", "malformed"),
        ({"exp": float("inf")}, "CREDENTIALS_INVALID", "malformed"),
        ({"tenant": "Not A Key"}, "CREDENTIALS_INVALID", "tenant is no tenant's key"),
        ({"tenant": 7}, "CREDENTIALS_INVALID", "tenant is no tenant's key"),
        ({"scope": 7}, "CREDENTIALS_INVALID", "neither text nor a list"),
        ({"scope": [7]}, "CREDENTIALS_INVALID", "neither text nor a list"),
    ],
)
async def test_claims_that_do_not_hold_are_refused(
    tmp_path: Path, issuer: Issuer, claims: dict[str, Any], reason: str, message: str
) -> None:
    error = await refusal(verifier(tmp_path), issuer.token(**{"tenant": "acme", **claims}))
    assert error.reason == reason
    assert message in error.message


def _segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


async def test_an_unsigned_token_is_refused(tmp_path: Path, issuer: Issuer) -> None:
    claims = issuer.token(tenant="acme").split(".")[1]
    for name in ("none", "None", "NONE", "", None):
        forged = f"{_segment({'alg': name, 'kid': issuer.key_id})}.{claims}."
        error = await refusal(verifier(tmp_path), forged)
        assert "algorithm is none of RS256, ES256, EdDSA" in error.message


async def test_the_public_key_is_no_shared_secret(tmp_path: Path) -> None:
    """HS256 with what everybody can read as the secret: the classic confusion of algorithms."""
    issuer = Issuer("RS256")
    issuer.publish(tmp_path / "jwks.json")
    public = issuer.private_key().public_key()
    for encoding, format_ in (
        (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    ):
        secret = public.public_bytes(encoding, format_)
        signed = f"{_segment({'alg': 'HS256', 'kid': issuer.key_id})}.{_segment({'sub': 'ann'})}"
        algorithm = jwt.get_algorithm_by_name("HS256")
        mark = algorithm.sign(signed.encode(), secret)
        forged = f"{signed}.{base64.urlsafe_b64encode(mark).rstrip(b'=').decode()}"
        error = await refusal(verifier(tmp_path), forged)
        assert "algorithm is none of" in error.message


async def test_a_key_signs_by_its_own_algorithm_alone(tmp_path: Path, issuer: Issuer) -> None:
    header, claims, mark = issuer.token().split(".")
    assert header
    forged = f"{_segment({'alg': 'EdDSA', 'kid': issuer.key_id})}.{claims}.{mark}"
    error = await refusal(verifier(tmp_path), forged)
    assert error.message == "the token's algorithm is not its key's"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"crit": ["b64"], "b64": False}, "malformed|not understood"),
        ({"crit": ["exp"]}, "malformed|not understood"),
        ({"kid": "another"}, "a key that is not known"),
        ({"kid": None}, ""),
    ],
)
async def test_headers_decide_nothing(
    tmp_path: Path, issuer: Issuer, header: dict[str, Any], message: str
) -> None:
    genuine = issuer.token(tenant="acme")
    _, claims, mark = genuine.split(".")
    forged = f"{_segment({'alg': 'ES256', 'kid': issuer.key_id, **header})}.{claims}.{mark}"
    error = await refusal(verifier(tmp_path), forged)
    assert any(part in error.message for part in message.split("|"))


async def test_bytes_that_are_no_token_are_refused(tmp_path: Path, issuer: Issuer) -> None:
    header, claims, mark = issuer.token(tenant="acme").split(".")
    flipped = mark[:-4] + ("AAAA" if mark[-4:] != "AAAA" else "BBBB")
    other = Issuer().signed({"sub": "ann"}, kid=issuer.key_id)
    for token in (
        "",
        "abc",
        "a.b.c",
        "..",
        f"{header}.{claims}",
        f"{header}.{claims}.",
        f"{header}.{claims}.{flipped}",
        f"{header}.{_segment({'sub': 'root'})}.{mark}",
        "é" * 50,
        "[" * 5000,
        f"{base64.urlsafe_b64encode(b'[' * 3000).decode()}.{claims}.{mark}",
        "x" * (TOKEN_BYTES_MAX + 1),
        other,
    ):
        error = await refusal(verifier(tmp_path), token)
        assert error.reason == "CREDENTIALS_INVALID"


async def test_a_verified_token_is_remembered_until_it_ends(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(time.time())
    tokens = verifier(tmp_path, clock, leeway_seconds=5)
    token = issuer.token(tenant="acme")
    first = await tokens.verify(token)
    verified = 0
    decode = jwt.decode

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal verified
        verified += 1
        return decode(*arguments, **options)

    monkeypatch.setattr(jwt, "decode", counted)
    assert await tokens.verify(token) is first
    assert verified == 0
    clock.advance(LIFE_SECONDS + 6)
    await tokens.verify(token)  # By the machine's own clock it is still good.
    assert verified == 1


async def test_what_is_remembered_is_bounded(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = verifier(tmp_path, remembered_tokens_max=2)
    first, second, third = (issuer.token(subject=name) for name in "abc")
    for token in (first, second, first, third):  # The second is the one not used for longest.
        await tokens.verify(token)

    def refuse(*_: Any, **__: Any) -> Any:
        raise jwt.InvalidTokenError

    monkeypatch.setattr(jwt, "decode", refuse)
    assert (await tokens.verify(first)).subject == "a"
    assert (await tokens.verify(third)).subject == "c"
    await refusal(tokens, second)


async def test_a_withdrawn_key_takes_its_tokens_with_it(tmp_path: Path, issuer: Issuer) -> None:
    tokens = verifier(tmp_path, renew_seconds_min=0.001)
    old_key, old = issuer.key_id, issuer.token(tenant="acme")
    await tokens.verify(old)
    issuer.rotate("RS256")
    issuer.publish(tmp_path / "jwks.json")
    new = issuer.token(tenant="globex")
    assert (await tokens.verify(new)).tenant == "globex"  # Its key is looked for at once.
    assert (await tokens.verify(old)).tenant == "acme"
    issuer.withdraw(old_key)
    issuer.rotate("EdDSA")
    issuer.publish(tmp_path / "jwks.json")
    await tokens.verify(issuer.token())  # Has the keys read again.
    error = await refusal(tokens, old)
    assert error.message == "the token is signed with a key that is not known"
