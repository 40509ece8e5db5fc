"""Connection strings as URIs."""

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict

from atlas_devstack.ports import LOOPBACK


def make_dsn(*, user: str, password: str, port: int, database: str, host: str = LOOPBACK) -> str:
    """Return a DSN for one server."""
    parts = {"host": host, "port": str(port), "user": user, "password": password}
    return _uri({**parts, "dbname": database})


def dsn_as(dsn: str, *, user: str, password: str) -> str:
    """Return the same server and database for another role; keeps options such as sslmode."""
    parts = _parts(dsn)
    parts.pop("passfile", None)
    return _uri({**parts, "user": user, "password": password})


def with_database(dsn: str, database: str) -> str:
    """Return the same server and role with another database."""
    return _uri({**_parts(dsn), "dbname": database})


def with_words(dsn: str, words: Mapping[str, str]) -> str:
    """Return the same DSN with these words of libpq, such as sslmode."""
    return _uri({**_parts(dsn), **words})


def whoever_writes(dsns: Sequence[str]) -> str:
    """Return one DSN for the server among these that takes writes, whichever that is when asked."""
    every = [_parts(dsn) for dsn in dsns]
    hosts = ",".join(parts.get("host", LOOPBACK) for parts in every)
    ports = ",".join(parts.get("port", "5432") for parts in every)
    several = {**every[0], "host": hosts, "port": ports}
    return _uri({**several, "target_session_attrs": "read-write"})


def _parts(dsn: str) -> dict[str, str]:
    found = conninfo_to_dict(dsn)
    return {key: str(value) for key, value in found.items() if value is not None}


def _uri(parts: dict[str, str]) -> str:
    rest = dict(parts)
    host, port = rest.get("host", LOOPBACK), rest.get("port", "5432")
    if "/" in host or "," in host:  # A socket directory or several hosts fit the query part only.
        authority = ""
    else:
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        rest.pop("host", None)
        rest.pop("port", None)
    login = quote(rest.pop("user", ""), safe="")
    if "password" in rest:
        login += ":" + quote(rest.pop("password"), safe="")
    database = quote(rest.pop("dbname", ""), safe="")
    query = f"?{urlencode(rest, quote_via=quote)}" if rest else ""
    at = "@" if login else ""
    return f"postgresql://{login}{at}{authority}/{database}{query}"
