"""Serves the page, and the overview that it shows to whom the services let see it.

The console has no rights of its own: it hands on the token of whoever looks, and what the services
refuse him, it does not show. There is no session, no cookie, and nothing that changes anything.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources

from aiohttp import web

from atlas_client import overview
from atlas_client.cli.output import to_json
from atlas_client.client import AtlasClient
from atlas_client.endpoints import Endpoints
from atlas_client.security import Security

READS_MAX = 16
"""Overviews that are taken at a time; more are refused with 503."""
_TOKEN_CHARACTERS_MAX = 16_384
_FILES = {
    "/": ("index.html", "text/html"),
    "/console.css": ("console.css", "text/css"),
    "/console.js": ("console.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class ConsoleOptions:
    """What the console serves."""

    endpoints: Endpoints
    """Of the services. No token or certificate of theirs is used: it would be our own."""
    names: frozenset[str]
    """Hosts, with ports, that browsers may know the console by; others get nothing."""
    timeout_seconds: float = overview.TIMEOUT_SECONDS


def application(options: ConsoleOptions) -> web.Application:
    """The console as an application of aiohttp."""
    console = _Console(options)
    app = web.Application(middlewares=[console.guard], client_max_size=1024)
    for path in _FILES:
        app.router.add_get(path, console.file)
    app.router.add_get("/api/overview", console.overview)
    return app


class _Console:
    def __init__(self, options: ConsoleOptions) -> None:
        self._options = options
        self._reads = asyncio.Semaphore(READS_MAX)
        static = resources.files("atlas_client.console").joinpath("static")
        self._files: Mapping[str, tuple[bytes, str]] = {
            path: (static.joinpath(name).read_bytes(), kind)
            for path, (name, kind) in _FILES.items()
        }

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers to our own names alone, and all with the same headers."""
        try:
            # A name of somebody's that resolves to us would make its pages of one origin with ours.
            if request.host not in self._options.names:
                response: web.StreamResponse = _problem(421, "this is not the console's name")
            else:
                response = await handler(request)
        except web.HTTPException as error:
            response = _problem(error.status, error.reason)
        response.headers.update(_HEADERS)
        return response

    async def file(self, request: web.Request) -> web.StreamResponse:
        """The page and what belongs to it: nothing that is secret."""
        body, kind = self._files[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def overview(self, request: web.Request) -> web.StreamResponse:
        """What the caller may see of the platform."""
        try:
            security = self._security(request.headers.get("Authorization"))
        except ValueError as error:
            return _problem(401, str(error))
        if self._reads.locked():
            return _problem(503, "too many look at the platform at once: try again in a moment")
        endpoints = replace(self._options.endpoints, security=security)
        async with self._reads, AtlasClient.connect(endpoints) as client:
            try:
                found = await overview.take(client, timeout=self._options.timeout_seconds)
            except overview.SignedOutError as error:
                return _problem(401, str(error))
        return web.Response(text=json.dumps(to_json(found)), content_type="application/json")

    def _security(self, authorization: str | None) -> Security | None:
        """How the services are reached, as whoever asks. Raises ValueError."""
        known = self._options.endpoints.security
        token: str | None = None
        if authorization is not None:
            scheme, _, token = authorization.partition(" ")
            is_ascii = token.isascii() and token.isprintable() and " " not in token
            if scheme.lower() != "bearer" or not 0 < len(token) <= _TOKEN_CHARACTERS_MAX:
                raise ValueError("the Authorization header is no bearer token")
            if not is_ascii:
                raise ValueError("the bearer token has characters that tokens do not have")
        given = known or Security()
        made = replace(given, token=token, certificate_file=None, key_file=None)
        if made.token is None and not made.is_tls:
            return None
        return made


def _problem(status: int, text: str) -> web.Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return web.json_response({"error": text}, status=status, headers=headers)
