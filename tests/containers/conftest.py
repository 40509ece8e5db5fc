"""What tests with a container engine need. Without an engine they are skipped, and say why."""

import shutil

import pytest

from atlas_devstack.containers import engine_problem, missing_images

from .images import BASE_IMAGE, docker


@pytest.fixture(scope="session")
def engine() -> None:
    """An engine that answers."""
    problem = engine_problem()
    if problem:
        pytest.skip(problem)


@pytest.fixture(scope="session")
def server_images(engine: None) -> None:
    """The images of Postgres and Valkey."""
    missing = missing_images()
    if missing:
        pytest.skip(f"the engine has no image {', '.join(missing)}")


@pytest.fixture(scope="session")
def builder(engine: None) -> None:
    """A `docker` that builds, and the image that ours are based on."""
    if shutil.which("docker") is None:
        pytest.skip("there is an engine, but no docker command")
    is_here = docker("image", "inspect", BASE_IMAGE, check=False).returncode == 0
    if not is_here and docker("pull", BASE_IMAGE, check=False, seconds=300).returncode != 0:
        pytest.skip(f"the engine has no image {BASE_IMAGE} and cannot pull it")
