"""Keys and certificates are renewed while calls run, and no call fails for it."""

import asyncio
import base64
import json
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509

from atlas.type.freshness import FreshnessToken
from atlas_client import AtlasClient, AtlasError, EntityState, Point, attribute
from atlas_client.consistency import at_least_as_fresh, strong
from atlas_devstack.authority import CertificateFiles
from atlas_devstack.issuer import Algorithm
from atlas_devstack.ports import LOOPBACK
from atlas_devstack.services import KEY_RING_FILE

from .fortress import Fortress

CALLERS = 3
pytestmark = pytest.mark.timeout(300)


class Traffic:
    """Calls that are made all the time; any that fails fails the test."""

    def __init__(self) -> None:
        self.done = 0
        self.ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, client: AtlasClient, entity: str, value: int) -> None:
        self._tasks.append(asyncio.create_task(self._call(client, entity, value)))

    async def _call(self, client: AtlasClient, entity: str, value: int) -> None:
        session = client.session()  # Which carries the freshness token of each call to the next.
        while not self.ended.is_set():
            await session.write([Point(entity, "rpm", value)])
            read = await client.get_entities([entity], consistency=strong())
            assert read[entity].values["rpm"] == value
            await client.get_entities([entity])  # By way of hotcache.
            seen = await session.get_entities([entity])
            assert seen[entity].values["rpm"] == value
            self.done += 4

    async def until_more(self, calls: int) -> None:
        """Wait for so many more calls. Raises what a call raised."""
        wanted = self.done + calls
        await self.until(lambda: self.done >= wanted)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(120):
            while not holds():
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.02)

    async def end(self) -> None:
        self.ended.set()
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def traffic(held: Fortress, tokens: dict[str, str]) -> AsyncIterator[Traffic]:
    running = Traffic()
    async with (
        held.client(lambda: tokens["acme"], "acme") as acme,
        held.client(lambda: tokens["globex"], "globex") as globex,
    ):
        for number in range(CALLERS):
            running.begin(acme, f"acme-{number}", number)
            running.begin(globex, f"globex-{number}", 100 + number)
        try:
            yield running
        finally:
            await running.end()


async def test_signing_keys_are_rotated_while_calls_run(held: Fortress) -> None:
    def tokens_now() -> dict[str, str]:
        return {tenant: held.token(tenant) for tenant in ("acme", "globex")}

    tokens = tokens_now()
    algorithms: tuple[Algorithm, ...] = ("RS256", "EdDSA", "ES256")
    async with traffic(held, tokens) as running:
        await running.until_more(20)
        for algorithm in algorithms:
            old_key, old = held.verified.issuer.key_id, tokens["acme"]
            held.verified.issuer.rotate(algorithm)
            held.verified.issuer.publish(held.verified.key_set)
            # Signed with the new key at once: services look for it when they first see its id.
            tokens.update(tokens_now())
            await running.until_more(20)
            held.verified.issuer.withdraw(old_key)
            held.verified.issuer.publish(held.verified.key_set)
            await _until_refused(held, old)
            await running.until_more(20)


async def _until_refused(held: Fortress, token: str) -> None:
    """What a withdrawn key signed is refused, though it was good and remembered a moment ago."""
    async with held.client(token) as client, asyncio.timeout(60):
        with pytest.raises(AtlasError) as caught:  # noqa: PT012 - one of many does.
            while True:
                await client.get_entities(["acme-0"], consistency=strong())
    assert caught.value.reason == "CREDENTIALS_INVALID"


class KeyRing:
    """The file with the keys of freshness and page tokens that all services follow."""

    def __init__(self, held: Fortress) -> None:
        self._held = held
        self._path = held.stack.state.run / KEY_RING_FILE
        self._keys = dict(json.loads(self._path.read_text())["keys"])
        self._keys["2"] = base64.b64encode(secrets.token_bytes(32)).decode()

    async def publish(self, ids: Sequence[int], active: int) -> None:
        """Replace it, and wait until each service has read it."""
        ring = {"keys": {str(each): self._keys[str(each)] for each in ids}, "active_key": active}
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(ring))
        fresh.replace(self._path)
        said = f"keys {', '.join(map(str, ids))}, sealing with {active}"
        logs = [self._held.stack.state.logs / f"{name}.log" for name in self._held.stack.services]
        async with asyncio.timeout(60):
            while not all(said in log.read_text() for log in logs):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    def is_told(self) -> bool:
        """Whether a log holds a key."""
        told = "".join(log.read_text() for log in self._held.stack.state.logs.glob("*.log"))
        return any(key in told for key in self._keys.values())


async def test_keys_of_tokens_are_rotated_while_calls_run(held: Fortress) -> None:
    tokens = {tenant: held.token(tenant) for tenant in ("acme", "globex")}
    ring = KeyRing(held)
    async with (
        traffic(held, tokens) as running,
        held.client(tokens["globex"], "globex") as client,
    ):
        await running.until_more(40)
        written = await client.write([Point(f"pump-{number}", "rpm", 100) for number in range(2)])
        old = at_least_as_fresh(written.token)
        pages = [await _begun(client) for _ in range(2)]
        await ring.publish((1, 2), active=1)  # Each service knows it before one seals with it.
        await running.until_more(20)
        await ring.publish((1, 2), active=2)
        await running.until_more(40)
        renewed = await client.write([Point("pump-0", "rpm", 100)])
        assert {s.key_id for s in FreshnessToken.decode(renewed.token).segments} == {2}
        await client.get_entities(["pump-0"], consistency=old)
        assert await anext(pages[0]), "a page token of the former key"
        await ring.publish((2,), active=2)
        await running.until_more(40)
        with pytest.raises(AtlasError, match="key 1, which is not in use here") as refused:
            await client.get_entities(["pump-0"], consistency=old)
        assert refused.value.reason == "TOKEN_TAMPERED"
        with pytest.raises(AtlasError, match="key 1, which is not in use here") as refused:
            await anext(pages[1])
        assert refused.value.reason == "PAGE_TOKEN_INVALID"
        await client.get_entities(["pump-0"], consistency=at_least_as_fresh(renewed.token))
    assert not ring.is_told()


async def _begun(client: AtlasClient) -> AsyncIterator[EntityState]:
    """Entities, of which the first page is read."""
    found = aiter(client.find_entities(attribute("rpm") >= 0, page_size=1, consistency=strong()))
    await anext(found)
    return found


async def test_certificates_are_renewed_while_calls_run(held: Fortress) -> None:
    tokens = {tenant: held.token(tenant) for tenant in ("acme", "globex")}
    async with traffic(held, tokens) as running:
        await running.until_more(20)
        for _ in range(2):
            serials = {}
            for name, files in held.verified.certificates.items():
                fresh = held.verified.authority.issue(LOOPBACK, "localhost", f"{name}.atlas")
                files.replace_with(fresh)
                serials[name] = _serial(fresh.certificate)
            for name, serial in serials.items():
                await _until_shown(held, name, serial)
            await running.until_more(40)


def _serial(certificate: Path) -> int:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number


async def _until_shown(held: Fortress, service: str, serial: int) -> None:
    for for_peers in (False, True) if service in held.verified.peer_ports else (False,):
        target = held.target(service, for_peers=for_peers)
        async with asyncio.timeout(60):
            while await asyncio.to_thread(_shown, held, target) != serial:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def _shown(held: Fortress, target: str) -> int:
    """The serial number of the certificate that a server shows to a new connection."""
    context = ssl.create_default_context(cafile=held.verified.authority.ca_file)
    own: CertificateFiles = held.verified.certificates["query"]
    context.load_cert_chain(own.certificate, own.key)
    host, _, port = target.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number
