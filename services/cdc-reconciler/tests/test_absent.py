"""What DuckDB would like to have is looked for once; what is there is left alone."""

import importlib
import sys
from importlib.abc import MetaPathFinder
from typing import Any

import pytest

from atlas_cdc_reconciler.sink import absent

MISSING, THERE = "atlas_no_such_module", "json"


class Asked(MetaPathFinder):
    """Counts."""

    times = 0

    def find_spec(self, fullname: str, _path: Any, _target: Any = None) -> None:
        self.times += fullname == MISSING


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    others = [one for one in sys.meta_path if not isinstance(one, absent._Absent)]
    monkeypatch.setattr(sys, "meta_path", [asked, *others])
    monkeypatch.setattr(absent, "_OPTIONAL", (MISSING, THERE))
    return asked


def test_a_missing_module_is_looked_for_once(asked: Asked) -> None:
    for _ in range(2):
        absent.remember_absent_modules()
    for _ in range(3):
        with pytest.raises(ModuleNotFoundError, match=MISSING) as caught:
            importlib.import_module(MISSING)
        assert caught.value.name == MISSING
    assert asked.times == 1


def test_a_module_that_is_there_is_found(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    absent.remember_absent_modules()
    monkeypatch.delitem(sys.modules, THERE)
    assert importlib.import_module(THERE).loads("1") == 1
    assert asked.times == 1
