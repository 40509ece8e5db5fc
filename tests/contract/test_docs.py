"""What documents point to is there: links, anchors, commands, tools, settings."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from typer.main import get_command

from atlas_client.cli.root import build
from atlas_common.config import variables

ROOT = Path(__file__).parents[2]
PLACES = (
    "*.md",
    "*/README.md",
    "*/*/README.md",
    "docs/**/*.md",
    "ops/**/*.md",
    "terraform/**/*.md",
)
DOCUMENTS = sorted(
    path
    for path in {path for place in PLACES for path in ROOT.glob(place)}
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
SERVICES = ("ingest", "hotcache", "query", "cdc_reconciler")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"^```[^\n]*\n(.*?)^```|(`+)(.+?)\2", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
ATLAS = get_command(build())
GONE = {"ATLAS_CATALOG__ATTRIBUTES_PER_TENANT_MAX"}  # What an ADR says that it went.
SETTING = re.compile(r"\bATLAS_[A-Z0-9_]+")


def code_of(text: str) -> Iterator[str]:
    """The lines of fenced blocks, and what stands between backticks."""
    for block, _, span in CODE.findall(text):
        yield from block.splitlines() if block else [" ".join(span.split())]


@cache
def anchors(document: Path) -> frozenset[str]:
    """Of its headings, as GitHub makes them."""
    headings = HEADING.findall(FENCE.sub("", document.read_text()))
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return frozenset(re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in plain)


def everywhere(found: Callable[[Path], Iterator[str]]) -> list[str]:
    """What is wrong in any document, and where."""
    return [
        f"{document.relative_to(ROOT)}: {problem}"
        for document in DOCUMENTS
        for problem in found(document)
    ]


def test_links_lead_somewhere() -> None:
    assert everywhere(broken_links) == []


def broken_links(document: Path) -> Iterator[str]:
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", document.read_text()))
    for link in LINK.findall(prose):
        address, _, anchor = link.partition("#")
        if re.match(r"\w+:", address):
            continue
        target = (document.parent / address).resolve() if address else document
        if not (target.is_relative_to(ROOT) and target.exists()):
            yield f"{link} is not there"
        elif anchor and anchor not in anchors(target):
            yield f"{link}: no such heading"


def test_commands_that_documents_name_exist() -> None:
    assert everywhere(unknown_commands) == []


def unknown_commands(document: Path) -> Iterator[str]:
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    queries = set(
        re.findall(r"(?m)^-- name: (\w+)$", (ROOT / "ops" / "monitoring.sql").read_text())
    )
    for line in code_of(document.read_text()):
        makes = re.findall(r"(?:^|&& |; )make ([a-z]+)\b", line)
        asked = re.findall(r"\bops/ask (\w+)", line)
        tools = re.findall(r"(?<![\w./-])tools/[\w.]+\w", line)
        atlas = re.findall(r"(?:^|&& |\| |\.venv/bin/)atlas ([a-z][^#|&;]*)", line)
        if (
            not targets.issuperset(makes)
            or not queries.issuperset(asked)
            or not all((ROOT / tool).exists() for tool in tools)
            or not all(is_command(words.split()) for words in atlas)
        ):
            yield line


def is_command(words: list[str]) -> bool:
    """Whether `atlas` has such a command, with such options."""
    command: Any = ATLAS
    while words and words[0] in getattr(command, "commands", ()):
        command = command.commands[words.pop(0)]
    if command is ATLAS:
        return False
    parameters = list(command.params)
    if getattr(command, "commands", None):  # `atlas reconcile` is `atlas reconcile run`.
        parameters += command.commands["run"].params
    known = {"--help"} | {o for each in parameters for o in (*each.opts, *each.secondary_opts)}
    return known >= {word.partition("=")[0] for word in words if word.startswith("--")}


def test_settings_that_documents_name_exist() -> None:
    configs = [import_module(f"atlas_{name}.config").Config for name in SERVICES]
    known = {name for config in configs for name in variables(config)}
    sections = {name[: end.start()] for name in known for end in re.finditer("__", name)}
    others = set(SETTING.findall(other_sources()))

    def unknown(document: Path) -> Iterator[str]:
        for name in set(SETTING.findall(document.read_text())) - GONE:
            is_ours = name in known or name.removesuffix("__") in sections
            if not is_ours and ("__" in name or name not in others):
                yield name

    assert everywhere(unknown) == []


def other_sources() -> str:
    """What reads variables besides services."""
    files = [ROOT / "docker-compose.yml", ROOT / "ops" / "ask"]
    for pattern in ("libs/*/src/**/*.py", "db/src/**/*.py", "tests/**/*.py", "bench/src/**/*.py"):
        files += ROOT.glob(pattern)
    return "\n".join(file.read_text() for file in files)
