"""Servers and services for the tests below this folder."""

from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

pytest_plugins = ["atlas_devstack.pytest_plugin"]


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    """The address of an AWS of our own, with moto in its place. Shared: use names of your own."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its clients want to have, and moto does not look at."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
