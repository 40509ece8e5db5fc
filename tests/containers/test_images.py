"""Every image builds from the tree as it is, starts, and is nobody special in its container."""

from collections.abc import Callable

import pytest

from .images import CONSOLE, IMAGES, ROOT, SERVICES, Image, docker

pytestmark = pytest.mark.timeout(600)

SIZE_BYTES_MAX = 700 * 2**20
"""A bound against accidents (compilers, caches, the whole tree), not a goal."""


@pytest.fixture(scope="module", params=IMAGES, ids=lambda image: image.folder)
def built(request: pytest.FixtureRequest, builder: None) -> Image:
    """Each image in turn, built."""
    image: Image = request.param
    image.build()
    return image


def test_it_builds_and_starts(built: Image, record_property: Callable[[str, object], None]) -> None:
    shown = docker("run", "--rm", "--network=none", "--read-only", built.tag, "--help")
    assert "usage" in shown.stdout.lower()
    record_property("size_bytes", built.size_bytes())
    assert built.size_bytes() < SIZE_BYTES_MAX


def test_it_runs_as_an_ordinary_user(built: Image) -> None:
    shown = docker("run", "--rm", "--network=none", "--entrypoint=id", built.tag, "--user")
    assert int(shown.stdout) >= 10_000
    # Not by name: an orchestrator that demands runAsNonRoot must see a number.
    user = docker("image", "inspect", "--format", "{{.Config.User}}", built.tag).stdout
    assert user.partition(":")[0].isdecimal()


def test_it_holds_nothing_that_it_does_not_run(built: Image) -> None:
    found = docker(
        *("run", "--rm", "--network=none", "--entrypoint=pip", built.tag),
        *("list", "--format=freeze", "--disable-pip-version-check"),
    ).stdout
    own = {line.partition("==")[0] for line in found.splitlines() if line.startswith("atlas")}
    libraries = {"atlas-contracts", "atlas-common"} if built in SERVICES else set()
    expected = {f"atlas-{built.name}", *libraries}
    assert own == ({"atlas-client", "atlas-contracts"} if built is CONSOLE else expected)
    assert "pytest==" not in found


def test_every_dockerfile_is_tested() -> None:
    files = [*ROOT.glob("services/*/Dockerfile"), *ROOT.glob("libs/*/Dockerfile")]
    found = {file.parent.relative_to(ROOT).as_posix() for file in files}
    assert found <= {image.folder for image in IMAGES}
