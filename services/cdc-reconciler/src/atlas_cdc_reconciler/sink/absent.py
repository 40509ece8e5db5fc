"""Remembers which optional modules of DuckDB's are not there."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

_OPTIONAL = ("pandas",)


class _Absent(MetaPathFinder):
    """Refuses at once what was looked for once, in vain."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, _path: Any, _target: Any = None) -> ModuleSpec | None:
        """Refuse, or leave it to the others. Raises ModuleNotFoundError."""
        if fullname in self._names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def remember_absent_modules() -> None:
    """Look for DuckDB's optional modules once.

    It tries to import pandas for each value that it is given, and Python looks for a module that is
    not there in its whole path each time: 2 ms for a remembered window. (None in `sys.modules`,
    the usual way to say so, is taken for the module itself by pyarrow.)
    """
    if any(isinstance(finder, _Absent) for finder in sys.meta_path):
        return
    missing = frozenset(name for name in _OPTIONAL if find_spec(name) is None)
    sys.meta_path.insert(0, _Absent(missing))
