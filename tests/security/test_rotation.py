"""Keys and certificates are renewed while calls run, and no call fails for it."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509

from atlas_client import AtlasClient, AtlasError, Point
from atlas_client.consistency import strong
from atlas_devstack.authority import CertificateFiles
from atlas_devstack.issuer import Algorithm
from atlas_devstack.ports import LOOPBACK

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
        while not self.ended.is_set():
            await client.write([Point(entity, "rpm", value)])
            read = await client.get_entities([entity], consistency=strong())
            assert read[entity].values["rpm"] == value
            await client.get_entities([entity])  # By way of hotcache.
            self.done += 3

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
