"""The console: who sees what of the platform, in a browser and past it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from aiohttp import web

from atlas_client import Endpoints, Security
from atlas_client.console.server import ConsoleOptions, application
from atlas_devstack.ports import LOOPBACK, free_port

from . import browser
from .fortress import ALL_SCOPES, Fortress

LOOKING = ("telemetry.read", "platform.status")
SECRET = "globex"


@asynccontextmanager
async def serving(held: Fortress, **security: Any) -> AsyncIterator[str]:
    """The console before the fortress; its address."""
    known = Endpoints.from_json(held.stack.endpoints.to_json())
    ours = Security(ca_file=held.verified.authority.ca_file, **security)
    port = free_port(set())
    host = f"{LOOPBACK}:{port}"
    options = ConsoleOptions(replace(known, security=ours), frozenset({host}), timeout_seconds=30)
    runner = web.AppRunner(application(options))
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, port).start()
        yield f"http://{host}"
    finally:
        await runner.cleanup()


async def asked(
    address: str, token: str | None = None, **options: Any
) -> tuple[int, str, dict[str, str]]:
    """The overview: status, text, headers."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    headers |= options.pop("headers", {})
    method, path = options.pop("method", "GET"), options.pop("path", "/api/overview")
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{address}{path}", headers=headers, **options) as answer,
    ):
        return answer.status, await answer.text(), dict(answer.headers)


async def test_nobody_sees_anything_without_a_token_of_his_own(held: Fortress) -> None:
    """Not even where the console itself was given one: it has no rights to lend."""
    operator = held.token(scopes=ALL_SCOPES)
    async with serving(held, token=operator) as address:
        for token in (None, "forged", held.token(scopes=LOOKING)[:-4] + "AAAA"):
            status, text, headers = await asked(address, token)
            assert status == 401
            assert SECRET not in text
            assert "endpoint" not in text
            assert headers["WWW-Authenticate"] == "Bearer"
        status, _, _ = await asked(address, headers={"Authorization": "Basic b2xnYTp4"})
        assert status == 401


async def test_what_the_services_refuse_the_caller_is_not_shown(held: Fortress) -> None:
    async with serving(held) as address:
        status, text, _ = await asked(address, held.token("acme", ["telemetry.read"]))
        assert status == 200
        assert '"tiers": [{' in text
        assert "platform.status" in text, "it says which scope is missing"
        for part in ("staging", "pipeline", "verifications", "cache", "policies"):
            assert f'"{part}": null' in text
        assert SECRET not in text
        status, text, _ = await asked(address, held.token(scopes=LOOKING))
        assert (status, '"problems": {}' in text) == (200, True)
        assert '"tenant": "globex"' in text


async def test_the_page_is_read_only_and_of_our_names_alone(held: Fortress) -> None:
    token = held.token(scopes=LOOKING)
    async with serving(held) as address:
        status, page, headers = await asked(address, path="/")
        assert (status, "Atlas console" in page) == (200, True)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Cache-Control"] == "no-store"
        assert "://" not in page, "nothing from elsewhere"
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert (await asked(address, token, method=method))[0] == 405
        # A name of an attacker's that resolves to the console, for a page of his.
        status, text, _ = await asked(address, token, headers={"Host": "evil.example"})
        assert (status, SECRET in text) == (421, False)
        assert (await asked(address, token, path="/../../etc/passwd"))[0] == 404


@pytest.fixture
def hostile(held: Fortress) -> Iterator[str]:
    """What came of a policy's run, as somebody would have it who wants to run scripts here."""
    text = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    with psycopg.connect(held.stack.database.admin_dsn, autocommit=True) as admin:
        admin.execute(
            "INSERT INTO atlas.maintenance_policies"
            " (job, takes_tenants, schedule_interval, next_start, is_scheduled)"
            " VALUES ('hostile', false, '1 day', now(), false)"
        )
        admin.execute(
            "INSERT INTO atlas.maintenance_runs"
            " (policy_id, is_dry_run, runner, status, started_at, ended_at, summary, run_count)"
            " SELECT policy_id, false, '', 'failed', now(), now(), %s, 1"
            " FROM atlas.maintenance_policies WHERE job = 'hostile'",
            [text],
        )
        yield text
        admin.execute("DELETE FROM atlas.maintenance_policies WHERE job = 'hostile'")


@pytest.mark.skipif(browser.BINARY is None, reason=browser.ABSENT)
async def test_an_operator_signs_in_and_sees_the_platform(
    held: Fortress, hostile: str, tmp_path: Path
) -> None:
    async with serving(held) as address, browser.opened(address, tmp_path / "profile") as page:
        await page.until("document.getElementById('sign-in')?.hidden === false")
        assert await page.run("document.getElementById('board').hidden")
        await sign_in(page, "forged")
        await page.until("document.getElementById('refusal').textContent !== ''")
        await sign_in(page, held.token(scopes=LOOKING))
        await page.until("document.querySelectorAll('#proofs td').length > 1")
        shown = await page.run("document.body.innerText")
        for told in ("acme", "globex", "reconciliation", "partitions", "within budget", "CLOSED"):
            assert told in shown, told
        assert f"policy hostile failed: {hostile}" in shown, "a banner, as text"
        assert await page.run("document.title") == "Atlas console"
        await page.screenshot(tmp_path / "console.png")
        assert (tmp_path / "console.png").stat().st_size > 20_000
        assert await page.run("document.cookie + Object.keys(localStorage)") == ""
        await page.run("document.getElementById('leave').click()")
        await page.until("document.getElementById('board').hidden")
        assert await page.run("sessionStorage.length") == 0
        assert {url for url in page.requests if not url.startswith((address, "data:"))} <= {
            "about:blank"
        }
        assert [text for text in page.problems if "401" not in text] == []


async def sign_in(page: browser.Page, token: str) -> None:
    await page.run(
        f"document.getElementById('token').value = '{token}';"
        "document.querySelector('#sign-in button').click()"
    )
