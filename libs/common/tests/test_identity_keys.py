"""Which keys are taken, and from where."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from atlas_common.config import JwtConfig
from atlas_common.errors import FatalError, ServiceError
from atlas_common.identity.key_source import DOCUMENT_BYTES_MAX, KeyAddress, KeySource
from atlas_common.identity.keys import KEYS_MAX, KeySet
from atlas_common.testing import FakeClock
from atlas_devstack.issuer import Issuer

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})


def document(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def public(issuer: Issuer) -> dict[str, Any]:
    (key,) = json.loads(issuer.key_set())["keys"]
    return dict(key)


def test_symmetric_and_short_keys_are_left_out() -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
    good = public(Issuer())
    keys = KeySet.parse(
        document(
            {"kty": "oct", "kid": "secret", "k": "c2VjcmV0", "alg": "HS256"},
            {**RSAAlgorithm.to_jwk(short, as_dict=True), "kid": "short"},
            {**good, "kid": "encrypts", "use": "enc"},
            {**good, "kid": "other", "alg": "ES512"},
            {"kty": "EC", "kid": "broken", "crv": "P-256", "x": "AA", "y": "AA"},
            {"kty": "new"},
            good,
        ),
        ALGORITHMS,
    )
    assert keys.ids == ("key-1",)


def test_a_private_key_that_was_published_verifies_and_does_no_more() -> None:
    issuer = Issuer("RS256")
    own = issuer.private_key()
    assert isinstance(own, rsa.RSAPrivateKey)
    private = RSAAlgorithm.to_jwk(own, as_dict=True)
    key = KeySet.parse(document({**private, "kid": "k"}), ALGORITHMS).find("k")
    assert key is not None
    assert isinstance(key.key, rsa.RSAPublicKey)


@pytest.mark.parametrize(
    "read",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": 1}',
        b'{"keys": []}',
        b"[" * 5000,
        b"\xff",
        document({"kty": "oct", "kid": "s", "k": "c2VjcmV0"}),
        document(*[{"kty": "new"}] * (KEYS_MAX + 1)),
    ],
)
def test_a_set_without_a_usable_key_is_none(read: bytes) -> None:
    with pytest.raises(ValueError, match="key"):
        KeySet.parse(read, ALGORITHMS)


def test_a_token_without_a_key_id_is_for_the_only_key_there_is() -> None:
    one, two = public(Issuer()), public(Issuer())
    assert KeySet.parse(document(one), ALGORITHMS).find(None) is not None
    assert KeySet.parse(document(one, {**two, "kid": "b"}), ALGORITHMS).find(None) is None


def test_a_file_has_to_be_there_at_the_start(tmp_path: Path) -> None:
    config = JwtConfig(jwks=str(tmp_path / "jwks.json"), issuer="i", audience="a")
    with pytest.raises(FatalError, match=r"ATLAS_IDENTITY__JWT__JWKS: .*No such file"):
        KeySource.of(config)
    (tmp_path / "jwks.json").write_text("{}")
    with pytest.raises(FatalError, match="not a JSON Web Key Set"):
        KeySource.of(config)


class Address:
    """A server of one document, that can be told to misbehave."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        self.drips = False
        self.asked = 0
        self.released = threading.Event()
        self.url = ""


@contextmanager
def served() -> Iterator[Address]:
    address = Address()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address.asked += 1
            self.send_response(address.status)
            if address.status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            if address.drips:
                while not address.released.wait(0.02):
                    try:
                        self.wfile.write(b" ")
                    except OSError:
                        return
            else:
                self.wfile.write(address.body)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    address.url = f"http://127.0.0.1:{server.server_port}/jwks.json"
    try:
        yield address
    finally:
        address.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def source(
    url: str, clock: Callable[[], float], *, timeout: float = 5.0, age: float = 100.0
) -> KeySource:
    return KeySource(
        KeyAddress(url, None, timeout),
        ALGORITHMS,
        interval_seconds=0.01,
        pause_seconds=10,
        age_seconds_max=age,
        clock=clock,
    )


async def test_keys_are_believed_through_an_outage_but_not_for_ever() -> None:
    clock = FakeClock()
    with served() as address:
        address.body = Issuer().key_set()
        keys = source(address.url, clock)
        with pytest.raises(ServiceError, match="DEPENDENCY_UNAVAILABLE"):
            keys.current()
        known = await keys.renewed()
        for status, body in ((500, b""), (302, b""), (200, b"{}"), (200, b"")):
            address.status, address.body = status, body
            clock.advance(10)
            assert await keys.renewed() is known
    clock.advance(10)
    assert await keys.renewed() is known  # Nobody is there at all.
    clock.advance(51)
    with pytest.raises(ServiceError, match="DEPENDENCY_UNAVAILABLE"):
        await keys.check()


async def test_unknown_keys_have_the_address_asked_seldom() -> None:
    clock = FakeClock()
    with served() as address:
        issuer = Issuer()
        address.body = issuer.key_set()
        keys = source(address.url, clock)
        await asyncio.gather(*(keys.renewed() for _ in range(20)))
        assert address.asked == 1
        issuer.rotate()
        address.body = issuer.key_set()
        clock.advance(9.5)
        assert (await keys.renewed()).ids == ("key-1",)
        clock.advance(0.5)
        assert (await keys.renewed()).ids == ("key-1", "key-2")
        assert address.asked == 2


async def test_unknown_keys_hold_up_so_many_calls_and_no_more() -> None:
    with served() as address:
        address.drips = True
        keys = source(address.url, FakeClock(), timeout=60)
        calls = [asyncio.create_task(keys.renewed()) for _ in range(65)]
        await until(lambda: any(call.done() for call in calls))
        (refused,) = [call for call in calls if call.done()]
        with pytest.raises(ServiceError, match="OVERLOADED"):
            await refused
        address.released.set()
        others = [call for call in calls if call is not refused]
        ended = await asyncio.gather(*others, return_exceptions=True)
        assert len(ended) == 64
        assert all("DEPENDENCY_UNAVAILABLE" in str(error) for error in ended)


async def test_an_answer_has_bounds_of_size_and_time() -> None:
    with served() as address:
        address.body = b" " * (DOCUMENT_BYTES_MAX + 1)
        with pytest.raises(ValueError, match="larger than"):
            await asyncio.to_thread(KeyAddress(address.url, None, 5).read)
        address.drips = True
        began = time.monotonic()
        with pytest.raises(ValueError, match=r"not there within 0\.2 s"):
            await asyncio.to_thread(KeyAddress(address.url, None, 0.2).read)
        assert time.monotonic() - began < 10


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - no event tells of it.
            await asyncio.sleep(0.01)


async def test_keys_are_renewed_in_the_background() -> None:
    with served() as address:
        issuer = Issuer()
        address.body = issuer.key_set()
        keys = source(address.url, time.monotonic)
        task = asyncio.create_task(keys.run())
        try:
            await until(lambda: address.asked > 1)
            issuer.rotate()
            address.body = issuer.key_set()
            await until(lambda: keys.current().find("key-2") is not None)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
