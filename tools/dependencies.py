"""Print the third-party requirements of the given packages and .in files, one a line.

Packages of this repository name each other without a version; they are installed from the tree,
so their names are left out of what a lock resolves. An extra is asked for as pip would be:
services/cdc-reconciler[redshift].
"""

import sys
import tomllib
from pathlib import Path


def third_party(source: str) -> list[str]:
    if source.endswith(".in"):
        lines = Path(source).read_text().splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]
    directory, _, extra = source.removesuffix("]").partition("[")
    project = tomllib.loads((Path(directory) / "pyproject.toml").read_text())["project"]
    needs = [need for need in project["dependencies"] if not need.startswith("atlas-")]
    return needs + (project["optional-dependencies"][extra] if extra else [])


def main() -> None:
    needs = {need for source in sys.argv[1:] for need in third_party(source)}
    sys.stdout.writelines(f"{need}\n" for need in sorted(needs))


if __name__ == "__main__":
    main()
