"""Whether what leaves this host goes by TLS that verifies whom it reaches.

Each function answers the way out for settings that do not see to that, or None. None repeats any of
them: passwords may be anywhere in a connection string.
"""

import ipaddress
from collections.abc import Mapping

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict

_TLS_OF_KAFKA = frozenset({"ssl", "sasl_ssl"})


def is_this_host(host: str) -> bool:
    """Whether a name or address is loopback's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def dsn_words(dsn: str) -> dict[str, str]:
    """The words of a libpq connection string or URL. Raises ValueError, without any of it."""
    try:
        given = conninfo_to_dict(dsn)
    except ProgrammingError:
        raise ValueError(
            "not a connection string or URL of libpq; does a part need quoting (%40 for @)?"
        ) from None
    return {word: str(value) for word, value in given.items() if value is not None}


def unverified_postgres(dsn: str) -> str | None:
    """Of a DSN. Raises ValueError for none."""
    # What it does not say, libpq takes from its variables: PGHOST, PGSSLMODE and so on.
    words = {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.get_defaults()
        if option.val is not None
    } | dsn_words(dsn)
    if words.get("sslmode") == "verify-full" or _stays_here(words):
        return None
    return (
        "the server is on another host and not verified; add sslmode=verify-full and"
        " sslrootcert=/path/of/its/authorities.pem (or sslrootcert=system) to the DSN"
    )


def unverified_kafka(bootstrap_servers: str, settings: Mapping[str, str]) -> str | None:
    """Of brokers, host:port by commas, and further settings of librdkafka."""
    if all(is_this_host(_host_of(broker)) for broker in bootstrap_servers.split(",")):
        return None
    if settings.get("security.protocol", "").lower() not in _TLS_OF_KAFKA:
        return (
            'brokers are on other hosts and not verified; set "security.protocol" to SASL_SSL or'
            ' SSL, and "ssl.ca.location"'
        )
    for setting, off in (
        ("enable.ssl.certificate.verification", "false"),
        ("ssl.endpoint.identification.algorithm", "none"),
    ):
        if settings.get(setting, "").lower() == off:
            return f'brokers are on other hosts and not verified; leave out "{setting}"'
    return None


def _stays_here(words: Mapping[str, str]) -> bool:
    if "service" in words:  # A file elsewhere says where that leads.
        return False
    named = f"{words.get('host', '')},{words.get('hostaddr', '')}".split(",")
    # Where nothing is named, and where a directory is, libpq takes a socket of this host.
    return all(not each or each[0] in "/@" or is_this_host(each) for each in named)


def _host_of(broker: str) -> str:
    host = broker.strip().rpartition("://")[2].rpartition(":")[0]
    return host.removeprefix("[").removesuffix("]")
