"""What redis-py does under our calls must look like a server that failed, not like our fault."""

from typing import Any, NoReturn

import pytest
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError

from atlas_hotcache.config import ValkeyConfig
from atlas_hotcache.valkey_client import open_client
from atlas_hotcache.valkey_url import ValkeyUrl


async def test_a_connection_closed_beneath_a_call_is_a_failed_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def write_to_nothing(*_arguments: Any, **_options: Any) -> NoReturn:
        raise AttributeError("'NoneType' object has no attribute 'writelines'")

    monkeypatch.setattr(RedisCluster, "execute_command", write_to_nothing)
    url = "redis+cluster://:secret@127.0.0.1:1"
    config = ValkeyConfig.model_validate({"url": url})
    async with open_client(ValkeyUrl.parse(url), config) as client:
        with pytest.raises(RedisConnectionError):
            await client.execute("EVALSHA", "digest", 1, "key")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@127.0.0.1:1",
        "redis+sentinel://:secret@127.0.0.1:1,127.0.0.1:2/main",
        "redis+cluster://:secret@127.0.0.1:1,127.0.0.1:2",
    ],
)
async def test_a_deployment_that_is_not_there_refuses_without_telling_the_password(
    url: str,
) -> None:
    config = ValkeyConfig.model_validate({"url": url})
    async with open_client(ValkeyUrl.parse(url), config) as client:
        with pytest.raises(RedisConnectionError) as caught:
            await client.execute("EVALSHA", "digest", 1, "key")
    assert "secret" not in repr(caught.value)
