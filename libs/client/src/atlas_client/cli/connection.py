"""The options that every command has: where the platform is, whose data, how to answer."""

import asyncio
import functools
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from atlas_client.cli import exits
from atlas_client.client import AtlasClient
from atlas_client.endpoints import Endpoints
from atlas_client.security import Security, Token, TokenFile

P = ParamSpec("P")

_DEFAULT_STATE = Path(".atlas")
_PANEL = "Connection"
TOKEN_VARIABLE = "ATLAS_BEARER_TOKEN"  # noqa: S105 - the name of it.


@dataclass(frozen=True, slots=True)
class Context:
    """A connected client, and how to answer."""

    client: AtlasClient
    as_json: bool
    endpoints: Endpoints


def _option(*names: str, envvar: str, text: str) -> Any:
    return typer.Option(*names, envvar=envvar, help=text, rich_help_panel=_PANEL)


StateOption = Annotated[
    Path | None,
    _option(
        "--state",
        envvar="ATLAS_STATE",
        text="State directory of a running `atlas up`; default: .atlas if it is there.",
    ),
]
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "state": (StateOption, None),
    "ingest": (
        Annotated[str | None, _option("--ingest", envvar="ATLAS_INGEST", text="host:port")],
        None,
    ),
    "query": (
        Annotated[str | None, _option("--query", envvar="ATLAS_QUERY", text="host:port")],
        None,
    ),
    "reconciler": (
        Annotated[str | None, _option("--reconciler", envvar="ATLAS_RECONCILER", text="host:port")],
        None,
    ),
    "hotcache": (
        Annotated[str | None, _option("--hotcache", envvar="ATLAS_HOTCACHE", text="host:port")],
        None,
    ),
    "tls": (
        Annotated[bool, _option("--tls", envvar="ATLAS_TLS", text="Connect by TLS.")],
        False,
    ),
    "ca_file": (
        Annotated[
            Path | None,
            _option("--ca-file", envvar="ATLAS_TLS_CA_FILE", text="The services' authorities."),
        ],
        None,
    ),
    "certificate_file": (
        Annotated[
            Path | None,
            _option(
                "--certificate-file",
                envvar="ATLAS_TLS_CERTIFICATE_FILE",
                text="A client certificate, if the services ask for one.",
            ),
        ],
        None,
    ),
    "key_file": (
        Annotated[
            Path | None,
            _option("--key-file", envvar="ATLAS_TLS_KEY_FILE", text="Its private key."),
        ],
        None,
    ),
    "server_name": (
        Annotated[
            str | None,
            _option(
                "--server-name",
                envvar="ATLAS_TLS_SERVER_NAME",
                text="The name in the services' certificates, unless it is the host.",
            ),
        ],
        None,
    ),
    "token_file": (
        Annotated[
            Path | None,
            _option(
                "--token-file",
                envvar="ATLAS_BEARER_TOKEN_FILE",
                text="File with a token; or the token itself in ATLAS_BEARER_TOKEN.",
            ),
        ],
        None,
    ),
    "timeout": (
        Annotated[
            float, _option("--timeout", envvar="ATLAS_TIMEOUT", text="Seconds each call may take.")
        ],
        10.0,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="Answer in JSON on stdout.")], False),
}
_TENANT: tuple[Any, Any] = (
    Annotated[str, typer.Option("--tenant", "-t", envvar="ATLAS_TENANT", help="Whose data.")],
    inspect.Parameter.empty,
)


def connected(
    *, tenant: bool = True
) -> Callable[[Callable[Concatenate[Context, P], Awaitable[int]]], Callable[..., None]]:
    """Make a command of an async function of a Context that returns the exit code.

    The command has the function's parameters and the shared options; `tenant=False` is for calls
    that need none.
    """

    def decorate(
        command: Callable[Concatenate[Context, P], Awaitable[int]],
    ) -> Callable[..., None]:
        shared = {**({"tenant": _TENANT} if tenant else {}), **_OPTIONS}

        @functools.wraps(command)
        def run(**values: Any) -> None:
            options = {name: values.pop(name) for name in shared}
            with exits.told():
                code = asyncio.run(_call(command, options, values))
            if code:
                raise typer.Exit(code)

        _add_parameters(run, command, shared)
        return run

    return decorate


def find_endpoints(
    state: Path | None,
    ingest: str | None,
    query: str | None,
    reconciler: str | None,
    hotcache: str | None,
) -> Endpoints:
    """Put together what a state directory and the options say. Raises typer.Exit."""
    known = Endpoints()
    is_default = state is None and not (ingest or query or reconciler or hotcache)
    where = _DEFAULT_STATE if is_default else state
    if where is not None:
        try:
            known = Endpoints.from_state(where)
        except FileNotFoundError:
            hint = f"start one: atlas up --state {where}"
            raise exits.fail(f"no stack is ready on {where}; {hint}", exits.UNAVAILABLE) from None
        except (OSError, ValueError) as error:
            raise exits.fail(f"{where}: {error}", exits.USAGE) from error
    return Endpoints(
        ingest=ingest or known.ingest,
        query=query or known.query,
        reconciler=reconciler or known.reconciler,
        hotcache=hotcache or known.hotcache,
        security=known.security,
    )


def find_security(options: Mapping[str, Any], known: Security | None) -> Security | None:
    """What the options say, and what they leave open as the state directory says.

    A token is no option: everybody on a machine can read the arguments of its processes. Raises
    ValueError when a file cannot be used.
    """
    token: Token | None = os.environ.get(TOKEN_VARIABLE) or None
    if options["token_file"] is not None:
        token = TokenFile(options["token_file"])
    files = {name: options[name] for name in ("ca_file", "certificate_file", "key_file")}
    given = Security(tls=options["tls"], server_name=options["server_name"], token=token, **files)
    if known is None:
        return given if given.is_tls or token is not None else None
    if not given.is_tls:
        return replace(known, token=token or known.token)
    return replace(given, token=token or known.token)


def _check(endpoints: Endpoints) -> None:
    """Raises ValueError for files that cannot be used, and a token on its way in the clear."""
    if endpoints.security is None:
        return
    if endpoints.security.is_tls:
        endpoints.security.pem()
    for target in (endpoints.ingest, endpoints.query, endpoints.reconciler, endpoints.hotcache):
        if target is not None:
            endpoints.security.check(target)


async def _call(
    command: Callable[..., Awaitable[int]], options: dict[str, Any], values: dict[str, Any]
) -> int:
    found = find_endpoints(
        options["state"],
        options["ingest"],
        options["query"],
        options["reconciler"],
        options["hotcache"],
    )
    try:
        endpoints = replace(found, security=find_security(options, found.security))
        _check(endpoints)
    except ValueError as error:
        raise exits.fail(str(error), exits.USAGE) from None
    connecting = AtlasClient.connect(
        endpoints, tenant=options.get("tenant"), timeout=options["timeout"]
    )
    async with connecting as client:
        return await command(Context(client, options["as_json"], endpoints), **values)


def _add_parameters(
    run: Callable[..., None], command: Callable[..., Any], shared: dict[str, tuple[Any, Any]]
) -> None:
    """Give `run` the signature that typer makes the command line of."""
    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())[1:]  # Without the Context.
    keyword = inspect.Parameter.KEYWORD_ONLY
    extra = [
        inspect.Parameter(name, keyword, default=default, annotation=annotation)
        for name, (annotation, default) in shared.items()
    ]
    parameters = [parameter.replace(kind=keyword) for parameter in own] + extra
    run.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    del run.__wrapped__  # type: ignore[attr-defined] # Its signature is not the command's.
