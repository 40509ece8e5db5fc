"""What images are made of is pinned, listed, and runs with as little as it can."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDERS = [*ROOT.glob("services/*/"), *ROOT.glob("libs/*/"), ROOT / "db"]
DOCKERFILES = sorted(
    folder / "Dockerfile" for folder in FOLDERS if (folder / "Dockerfile").exists()
)
OWN = ROOT / "requirements.lock"  # Of the repository itself: tests and tools.
LOCKS = sorted([OWN, *(lock for folder in FOLDERS for lock in folder.glob("*.lock"))])
SERVICES = ("ingest", "hotcache", "query", "cdc-reconciler")


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "tools" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sbom"] = module  # Where dataclasses look for their module.
    spec.loader.exec_module(module)
    return module


sbom = _load()


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("lock", LOCKS, ids=_id)
def test_every_lock_pins_everything_with_hashes_and_names_no_registry(lock: Path) -> None:
    text = lock.read_text()
    assert sbom.locked(text, str(lock)), "an empty lock"
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host", text)


@pytest.mark.parametrize(
    "line",
    [
        "six==1.17.0",
        "six>=1.17.0 --hash=sha256:" + "a" * 64,
        "six==1.17.0 --hash=sha256:abc",
        "six @ file:///tmp/six.whl --hash=sha256:" + "a" * 64,
        "-e ./libs/common",
    ],
)
def test_what_is_not_pinned_with_a_hash_is_found(line: str) -> None:
    with pytest.raises(ValueError, match="is not pinned with a hash"):
        sbom.locked(f"{line}\n", "requirements.lock")


def test_every_image_has_its_lock_and_its_bill() -> None:
    assert {ROOT / lock for lock in sbom.IMAGES.values()} == set(LOCKS) - {OWN}
    assert {(ROOT / lock).parent / "Dockerfile" for lock in sbom.IMAGES.values()} == {*DOCKERFILES}


@pytest.mark.parametrize("image", sbom.IMAGES)
def test_a_bill_lists_what_the_image_installs(image: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "sbom.py"), str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    text = (tmp_path / f"{image}.cdx.json").read_text()
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert text == json.dumps(sbom.sbom(image), indent=2) + "\n", "the same bytes each time"
    names = [component["name"] for component in bill["components"]]
    assert len({component["bom-ref"] for component in bill["components"]}) == len(names)
    assert names[0] == "python"
    package = (
        "client" if image == "console" else image.removesuffix("-redshift").removesuffix("-aws")
    )
    assert f"atlas-{package}" in names
    lock = (ROOT / sbom.IMAGES[image]).read_text()
    pinned = {each.name for each in sbom.locked(lock, image)}
    left_out = pinned - set(names)
    assert left_out <= {"tzdata", "async-timeout", "colorama"}, (
        "of other platforms, and older Pythons"
    )
    assert ({"psycopg", "psycopg-binary"} <= set(names)) == (image != "console")
    assert names.count("numpy") <= 1, "one branch of a fork by version"


@pytest.mark.parametrize("file", DOCKERFILES, ids=_id)
def test_images_install_what_is_locked_and_run_as_nobody(file: Path) -> None:
    text = file.read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install[^&\n]*", text)
    assert len(installs) == 2
    for install in installs:
        assert "--require-hashes" in install or "--no-deps" in install, install
    assert not re.search(r"^ADD |curl |wget |apt-get ", text, re.MULTILINE)
    assert not re.search(r"^(ARG|ENV)\b.*(PASSWORD|SECRET|TOKEN|_DSN)", text, re.MULTILINE)
    assert all(":" in base for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    final = text.rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\S+)", final, re.MULTILINE)
    assert users
    assert all(re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user) for user in users), (
        "numeric: Kubernetes' runAsNonRoot cannot tell of a name"
    )
    assert "PYTHONDONTWRITEBYTECODE=1" in final, "the root file system is read-only"
    for label in ("title", "description", "vendor", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in final
    volumes = re.findall(r"^VOLUME (\S+)", final, re.MULTILINE)
    assert volumes == (["/var/lib/atlas"] if file.parent.name == "cdc-reconciler" else [])


def loose(compose: dict[str, Any]) -> list[str]:
    """Which of our containers in a compose file run with more than they need, and with what."""
    problems = []
    for name, service in compose["services"].items():
        if name not in {*SERVICES, "db", "migrations"} and "build" not in service:
            continue  # Somebody else's image, which may need what it needs.
        wanted = {
            "read_only": service.get("read_only") is True,
            "cap_drop": service.get("cap_drop") == ["ALL"],
            "no-new-privileges": "no-new-privileges:true" in service.get("security_opt", []),
            "privileged": not service.get("privileged", False),
            "user": str(service.get("user", "10001")).partition(":")[0] not in {"0", "root"},
        }
        problems += [f"{name}: {what}" for what, holds in wanted.items() if not holds]
    return problems


def test_containers_get_no_more_than_they_need() -> None:
    """Of every compose file that there is; and the check finds what it is for."""
    tight = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
    assert loose({"services": {"query": tight, "kafka": {"image": "kafka"}}}) == []
    for change, found in (
        ({"read_only": False}, "read_only"),
        ({"cap_drop": []}, "cap_drop"),
        ({"security_opt": []}, "no-new-privileges"),
        ({"privileged": True}, "privileged"),
        ({"user": "root"}, "user"),
    ):
        assert loose({"services": {"query": {**tight, **change}}}) == [f"query: {found}"]
    for file in ROOT.glob("**/docker-compose*.y*ml"):
        if ".venv" not in file.parts:
            assert loose(yaml.safe_load(file.read_text())) == [], file
