"""Which servers are trusted with an administrator's password: as services do (atlas_common)."""

import ipaddress
from collections.abc import Mapping

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict


def refusal(dsn: str, environment: str) -> str | None:
    """Why this DSN is not used in this environment, without any of it; None: it is."""
    try:
        given = conninfo_to_dict(dsn)
    except ProgrammingError:
        return "not a connection string or URL of libpq; does a part need quoting (%40 for @)?"
    defaults = {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.get_defaults()
        if option.val is not None
    }
    words = defaults | {word: str(value) for word, value in given.items() if value is not None}
    if environment == "dev" or words.get("sslmode") == "verify-full" or _stays_here(words):
        return None
    return (
        f"refused in environment {environment!r}: the server is on another host and not verified;"
        " add sslmode=verify-full and sslrootcert=/path/of/its/authorities.pem (or"
        " sslrootcert=system) to the DSN"
    )


def _stays_here(words: Mapping[str, str]) -> bool:
    named = f"{words.get('host', '')},{words.get('hostaddr', '')}".split(",")
    return "service" not in words and all(not each or _is_here(each) for each in named)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host[0] in "/@"
