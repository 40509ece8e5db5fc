"""SQL lives in `queries.sql` files, in blocks that start with `-- name: some_name`."""

import re
from collections.abc import Collection, Mapping
from importlib import resources
from types import MappingProxyType

_NAME = re.compile(r"^--\s*name:\s*(?P<name>\S*)\s*$", re.MULTILINE)
_WORD = re.compile(r"[a-z][a-z0-9_]*")


def load_queries(
    package: str, *, file: str = "queries.sql", expect: Collection[str] | None = None
) -> Mapping[str, bytes]:
    """The queries of a package, by name; frozen. psycopg's parameters: `%(x)s`.

    Raises ValueError, at import where it belongs, for a doubled, ill-formed or empty block, and if
    `expect` is given for names that are missing or that nobody expects.
    """
    text = resources.files(package).joinpath(file).read_text(encoding="utf-8")
    queries = parse_queries(text, f"{package}/{file}")
    if expect is not None and set(expect) != set(queries):
        raise ValueError(f"{package}/{file}: differs by {sorted(set(expect) ^ set(queries))}")
    return queries


def parse_queries(text: str, source: str) -> Mapping[str, bytes]:
    """As `load_queries`, from text. The name goes along as a comment, for statistics."""
    marks = list(_NAME.finditer(text))
    before = text[: marks[0].start()] if marks else text
    if _without_comments(before):
        raise ValueError(f"{source}: SQL before the first '-- name:'")
    queries: dict[str, bytes] = {}
    for mark, end in zip(marks, [*(mark.start() for mark in marks[1:]), len(text)], strict=True):
        name = mark["name"]
        if not _WORD.fullmatch(name):
            raise ValueError(f"{source}: {name!r} is no name for a query")
        if name in queries:
            raise ValueError(f"{source}: there are two queries named {name}")
        query = text[mark.end() : end].strip().removesuffix(";")
        if not _without_comments(query):
            raise ValueError(f"{source}: the query {name} is empty")
        queries[name] = f"/* {name} */ {_without_comments(query)}".encode()
    return MappingProxyType(queries)


def _without_comments(sql: str) -> str:
    lines = (line for line in sql.splitlines() if not line.lstrip().startswith("--"))
    return "\n".join(lines).strip()
