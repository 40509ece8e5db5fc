"""tools/sbom.py [DIRECTORY]: writes what is in each image, as CycloneDX 1.6, one file an image.

Made from the lock that the image installs with --require-hashes, and its Dockerfile: so from what
is built, without building it, and without a network. The same sources give the same bytes.
"""

import hashlib
import json
import re
import sys
import tomllib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parents[1]
IMAGES = {
    "ingest": "services/ingest/requirements.lock",
    "hotcache": "services/hotcache/requirements.lock",
    "hotcache-aws": "services/hotcache/requirements-aws.lock",
    "query": "services/query/requirements.lock",
    "query-aws": "services/query/requirements-aws.lock",
    "cdc-reconciler": "services/cdc-reconciler/requirements.lock",
    "cdc-reconciler-aws": "services/cdc-reconciler/requirements-aws.lock",
    "cdc-reconciler-redshift": "services/cdc-reconciler/requirements-redshift.lock",
    "db": "db/requirements.lock",
    "console": "libs/client/requirements.lock",
}
"""By the lock that is installed; beside it is the Dockerfile."""
_PINNED = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^\s;\\]+)(?P<rest>.*)$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")
_FROM = re.compile(r"^FROM\s+(\S+)(?:\s+AS\s+\S+)?$", re.MULTILINE)
_COPIED = re.compile(r"^COPY (libs/\w+|db|services/[\w-]+) \1$", re.MULTILINE)


@dataclass(frozen=True)
class Requirement:
    """A line of a lock."""

    name: str
    version: str
    hashes: tuple[str, ...]
    """SHA-256 of the files that may be installed: one for each platform."""
    marker: str = ""
    """Where it is installed at all; "": everywhere."""


def locked(text: str, source: str) -> list[Requirement]:
    """What a lock pins. Raises ValueError for anything that is not pinned with a hash."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pinned = _PINNED.match(line)
        hashes = tuple(_HASH.findall(line))
        if pinned is None or not hashes:
            raise ValueError(f"{source}: {line.split()[0]} is not pinned with a hash: make lock")
        marker = pinned["rest"].partition("--hash")[0].strip().removeprefix(";").strip()
        found.append(Requirement(pinned["name"], pinned["version"], hashes, marker))
    return found


def sbom(image: str) -> dict[str, Any]:
    """The bill of materials of an image."""
    file = ROOT / IMAGES[image]
    lock, dockerfile = file.read_text(), (file.parent / "Dockerfile").read_text()
    base, _, tag = _FROM.findall(dockerfile)[-1].partition(":")
    own = [_own(ROOT / path) for path in _COPIED.findall(dockerfile)]
    third_party = [
        _component(each)
        for each in locked(lock, IMAGES[image])
        if not each.marker or Marker(each.marker).evaluate(_platform(tag))
    ]
    digest = hashlib.sha256((lock + dockerfile).encode()).hexdigest()
    subject = f"atlas/{image}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, subject + digest).urn,
        "version": 1,
        "metadata": {"component": {"type": "container", "name": subject, "bom-ref": subject}},
        "components": [
            {"type": "container", "name": base, "version": tag, "bom-ref": f"{base}:{tag}"},
            *own,
            *third_party,
        ],
    }


def _platform(tag: str) -> dict[str, str]:
    """What markers ask for, in an image of this tag of Debian's Python, such as "3.12-slim"."""
    version = tag.partition("-")[0]
    return {
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux",
    }


def _own(directory: Path) -> dict[str, Any]:
    project = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    return {"type": "library", "name": name, "version": version, "bom-ref": f"{name}@{version}"}


def _component(each: Requirement) -> dict[str, Any]:
    purl = f"pkg:pypi/{each.name}@{each.version}"
    return {
        "type": "library",
        "name": each.name,
        "version": each.version,
        "purl": purl,
        "bom-ref": purl,
        # Not `hashes`, which are the one component's: the image has one of these files.
        "properties": [{"name": "atlas:lock:sha256", "value": value} for value in each.hashes],
    }


def main() -> None:
    """Write them all."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "sbom")
    directory.mkdir(parents=True, exist_ok=True)
    for image in IMAGES:
        text = json.dumps(sbom(image), indent=2) + "\n"
        (directory / f"{image}.cdx.json").write_text(text)


if __name__ == "__main__":
    main()
