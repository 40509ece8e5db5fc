"""Which deployment a URL speaks of; and that no error shows what may be secret."""

import json

import pytest
from pydantic import SecretStr, ValidationError

from atlas_hotcache.config import ValkeyConfig
from atlas_hotcache.valkey_url import Deployment, Login, ValkeyUrl, ValkeyUrlError

SECRET = "s3cr3t"


def test_one_server() -> None:
    url = ValkeyUrl.parse(f"redis://user:{SECRET}%40%2F@host:7000/3")
    assert url == ValkeyUrl(
        Deployment.STANDALONE, (("host", 7000),), Login("user", f"{SECRET}@/"), database=3
    )
    assert ValkeyUrl.parse("valkey://[::1]").nodes == (("::1", 6379),)
    assert ValkeyUrl.parse("valkey://[::1]:7").nodes == (("::1", 7),)


@pytest.mark.parametrize("scheme", ["rediss", "valkeys", "rediss+cluster", "valkeys+cluster"])
def test_tls_with_files_of_ones_own(scheme: str) -> None:
    url = ValkeyUrl.parse(f"{scheme}://:p@host?ssl_ca_certs=/etc/ca.pem&ssl_certfile=/c")
    assert url.is_tls
    assert url.tls_files == (("ssl_ca_certs", "/etc/ca.pem"), ("ssl_certfile", "/c"))
    assert not ValkeyUrl.parse("redis://host").is_tls


def test_sentinels_and_the_service_they_watch() -> None:
    url = ValkeyUrl.parse(
        f"redis+sentinel://user:{SECRET}@a:1,b,[::1]:3/main/2?sentinel_password={SECRET}2"
    )
    assert url == ValkeyUrl(
        Deployment.SENTINEL,
        (("a", 1), ("b", 26379), ("::1", 3)),
        Login("user", SECRET),
        database=2,
        service="main",
        sentinel_login=Login("", f"{SECRET}2"),
    )


def test_some_nodes_of_a_cluster() -> None:
    url = ValkeyUrl.parse(f"valkey+cluster://:{SECRET}@a:1,b:2")
    assert url == ValkeyUrl(Deployment.CLUSTER, (("a", 1), ("b", 2)), Login("", SECRET))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "scheme is not known"),
        (f"http://:{SECRET}@host", "scheme is not known"),
        (f"redis+ring://:{SECRET}@host", "scheme is not known"),
        (f"redis://:{SECRET}@", "host is missing"),
        (f"redis://:{SECRET}@a,b", "several hosts"),
        (f"redis://:{SECRET}@host:port", "port is not in"),
        (f"redis://:{SECRET}@host:70000", "port is not in"),
        (f"redis://:{SECRET}@host/first", "no database number"),
        (f"redis://:{SECRET}@host/1/2", "no database number"),
        (f"redis://:{SECRET}@[::1", "it is no URL"),
        (f"redis://:a#{SECRET}@host", "after #"),
        (f"redis://:a/{SECRET}@host", "host is missing|port is not in"),
        (f"redis://:a?{SECRET}@host", "name=value"),
        (f"redis://host?password={SECRET}", "parameter that is not known"),
        ("redis://host?ssl_ca_certs=/x", "parameter that is not known"),
        (f"redis+sentinel://:{SECRET}@host", "service that the sentinels watch is missing"),
        (f"redis+cluster://:{SECRET}@host/1", "database 0 only"),
        (f"redis+cluster://:{SECRET}@{','.join(['h'] * 65)}", "more than 64 hosts"),
    ],
)
def test_what_is_none_is_refused_without_repeating_it(text: str, why: str) -> None:
    with pytest.raises(ValkeyUrlError, match=why) as caught:
        ValkeyUrl.parse(text)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(ValidationError) as refused:
        ValkeyConfig.model_validate({"url": text})
    assert SECRET not in str(refused.value)
    assert SECRET not in json.dumps(refused.value.errors(include_input=False), default=str)


def test_secrets_are_not_shown() -> None:
    url = ValkeyUrl.parse(f"redis+sentinel://:{SECRET}@host/main?sentinel_password={SECRET}")
    assert SECRET not in repr(url)


@pytest.mark.parametrize(
    ("url", "way_out"),
    [
        (f"redis://:{SECRET}@cache", "rediss"),
        (f"redis+sentinel://:{SECRET}@localhost,b/main", "rediss"),
        ("rediss://cache", "a password"),
        ("rediss+cluster://localhost,b?ssl_ca_certs=/ca.pem", "a password"),
    ],
)
def test_caches_elsewhere_that_are_not_verified(url: str, way_out: str) -> None:
    unverified = ValkeyConfig(url=SecretStr(url)).unverified()
    assert unverified is not None
    assert unverified[0] == "url"
    assert way_out in unverified[1]
    assert SECRET not in unverified[1]


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis+cluster://127.0.0.1:1,[::1]:2",
        f"rediss://:{SECRET}@cache",
        "rediss://cache?ssl_certfile=/c.pem&ssl_keyfile=/k.pem",
    ],
)
def test_caches_that_are_verified_or_on_this_host(url: str) -> None:
    assert ValkeyConfig(url=SecretStr(url)).unverified() is None
