"""Print the third-party requirements of the given packages and .in files, one a line.

Packages of this repository name each other without a version; they are installed from the tree,
so their names are left out of what a lock resolves.
"""

import sys
import tomllib
from pathlib import Path


def third_party(source: Path) -> list[str]:
    if source.suffix == ".in":
        lines = source.read_text().splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    return [need for need in project["dependencies"] if not need.startswith("atlas-")]


def main() -> None:
    needs = {need for source in sys.argv[1:] for need in third_party(Path(source))}
    sys.stdout.writelines(f"{need}\n" for need in sorted(needs))


if __name__ == "__main__":
    main()
