"""The images of this repository: how they are built and run."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE_IMAGE = "python:3.12-slim-bookworm"


@dataclass(frozen=True)
class Image:
    """One image, by the folder of its Dockerfile."""

    folder: str
    title: str = ""
    """Its name, unless that is the folder's."""

    @property
    def name(self) -> str:
        """Its service's name."""
        return self.title or Path(self.folder).name

    @property
    def tag(self) -> str:
        """Its name in the engine; apart from what people build by hand."""
        return f"atlas-test/{self.name}"

    def build(self) -> None:
        """Build it with the repository's root as context, as its Dockerfile says."""
        docker(
            "build",
            *("--file", f"{self.folder}/Dockerfile"),
            *("--tag", self.tag),
            *("--quiet", "."),
            seconds=540,
        )

    def size_bytes(self) -> int:
        """Return how much disk it takes, its base included."""
        return int(docker("image", "inspect", "--format", "{{.Size}}", self.tag).stdout)


SERVICES = tuple(
    Image(f"services/{name}") for name in ("ingest", "hotcache", "query", "cdc-reconciler")
)
MIGRATION_JOB = Image("db")
CONSOLE = Image("libs/client", "console")
IMAGES = (*SERVICES, MIGRATION_JOB, CONSOLE)


def docker(
    *arguments: str,
    check: bool = True,
    seconds: float = 60,
    environment: dict[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a docker command in the repository's root; a failure shows what it said."""
    done = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0 or not check, (
        f"docker {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    )
    return done
