"""Secrets of stores: read again in time, the last one while the store is away, said once."""

import asyncio
from collections.abc import Mapping

import pytest

from atlas_common.key_ring import KeyRing
from atlas_common.secrets import login_source, newest_ring, readings, sources
from atlas_common.secrets.login import Login, parse_login
from atlas_common.secrets.name import SourceName
from atlas_common.secrets.refreshed import RETRY_SECONDS_MAX, RETRY_SECONDS_MIN, Refreshed
from atlas_common.secrets.store import Secret
from atlas_common.token import Position, TokenSigner

NAME = SourceName.parse("vault:secret/data/test")
CANARY = "canary-4711"
REFRESH_SECONDS = 60.0
TENANT, OTHER_TENANT = 5, 6


class FakeStore:
    """Gives what it is told to, or is away."""

    def __init__(self, secret: Secret | None = None) -> None:
        self.secret = secret
        self.asked = 0

    def fetch(self, name: str) -> Secret:
        assert name == NAME.rest
        self.asked += 1
        if self.secret is None:
            raise ValueError("away")
        return self.secret

    async def until_asked_twice(self) -> None:
        """So once since now, and what it said then is known."""
        enough = self.asked + 2
        async with asyncio.timeout(20):
            while self.asked < enough:  # noqa: ASYNC110 - counted in a thread.
                await asyncio.sleep(0.01)


class Counted:
    """In place of the counter."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def add(self, _: int, labels: Mapping[str, str]) -> None:
        assert labels["source"] == "vault"
        self.outcomes.append(labels["outcome"])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted()
    monkeypatch.setattr(readings, "_readings", counted)
    return counted


def logins(store: FakeStore) -> Refreshed[Login]:
    return Refreshed(NAME, store, parse_login, refresh_seconds=REFRESH_SECONDS, clock=lambda: 0.0)


async def test_the_last_secret_goes_on_while_its_store_is_away(
    counted: Counted, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    store = FakeStore(Secret("first"))
    secret = logins(store)
    with pytest.raises(ValueError, match="not read yet"):
        _ = secret.newest
    await secret.first()
    first = secret.newest
    for broken in (None, None, Secret(""), Secret(f'{{"username": "{CANARY}"')):
        store.secret = broken
        await secret.refresh()
        assert secret.newest is first
    store.secret = Secret("second")
    await secret.refresh()
    assert secret.newest.password.get_secret_value() == "second"
    assert counted.outcomes == ["read", *["failed"] * 4, "read"]
    told = caplog.text + "".join(capfd.readouterr())
    assert CANARY not in told
    # Away twice, empty, half a document: each is said when it begins.
    assert told.count("the last one goes on") == 3


async def test_what_is_not_there_at_the_start_is_an_error() -> None:
    with pytest.raises(ValueError, match="away"):
        await logins(FakeStore()).first()


@pytest.mark.parametrize(("lease", "most"), [(None, REFRESH_SECONDS), (10.0, 5.0), (0.1, 0.5)])
async def test_what_has_a_lease_is_asked_for_at_half_of_it(
    lease: float | None, most: float
) -> None:
    secret = logins(FakeStore(Secret("first", lease)))
    await secret.first()
    assert 0.9 * most <= secret.pause_seconds() <= most


async def test_a_store_that_is_away_is_asked_more_and_more_seldom() -> None:
    store = FakeStore(Secret("first"))
    secret = logins(store)
    await secret.first()
    store.secret = None
    pauses = []
    for _ in range(20):
        await secret.refresh()
        pauses.append(secret.pause_seconds())
    assert pauses[0] == RETRY_SECONDS_MIN
    assert pauses == sorted(pauses)
    assert pauses[-1] == RETRY_SECONDS_MAX


async def test_sessions_end_before_the_lease_of_their_login_does() -> None:
    secret = logins(FakeStore(Secret('{"username": "u", "password": "p"}', 30.0)))
    await secret.first()
    with sources.held({NAME: secret}):
        source = login_source(str(NAME))
        assert source.read().username == "u"
        assert source.session_seconds_max == 10.0


async def test_a_signer_follows_its_ring_while_it_is_read_again() -> None:
    keys = {1: "a" * 22 + "==", 2: "b" * 21 + "A=="}

    def ring(ids: tuple[int, ...], active: int) -> Secret:
        listed = ", ".join(f'"{key_id}": "{keys[key_id]}"' for key_id in ids)
        return Secret(f'{{"keys": {{{listed}}}, "active_key": {active}}}')

    store = FakeStore(ring((1,), 1))
    secret = Refreshed(NAME, store, KeyRing.parse, refresh_seconds=0.01)
    await secret.first()
    position = Position(1, 2, 3)
    with sources.held({NAME: secret}):
        signer = TokenSigner.following(newest_ring(str(NAME)))
        old, old_page = signer.seal(TENANT, [position]), signer.seal_page(TENANT, b"q", b"c")
        running = asyncio.create_task(secret.run())
        try:
            for ids, active in (((1, 2), 1), ((1, 2), 2)):
                store.secret = ring(ids, active)
                await store.until_asked_twice()
                assert signer.open(old, TENANT) == (position,)
                assert signer.open_page(old_page, TENANT, b"q") == b"c"
            new = signer.seal(TENANT, [position])
            assert new != old
            assert signer.open(new, TENANT) == (position,)
            assert signer.seal(OTHER_TENANT, [position]) != new
            store.secret = ring((2,), 2)
            await store.until_asked_twice()
        finally:
            running.cancel()
        for opened in (
            lambda: signer.open(old, TENANT),
            lambda: signer.open_page(old_page, TENANT, b"q"),
        ):
            with pytest.raises(Exception, match="key 1, which is not in use here"):
                opened()
        assert signer.open(new, TENANT) == (position,)
