"""Dashboards are made by code, and whole."""

import json

from .rule_files import DASHBOARDS, tool

dashboards = tool("dashboards")


def test_they_are_what_the_code_makes() -> None:
    committed = {path.name: path.read_text() for path in DASHBOARDS}
    assert committed == dashboards.built(), "run tools/dashboards.py"


def test_no_panel_covers_another_and_each_asks_something() -> None:
    for text in dashboards.built().values():
        model = json.loads(text)
        taken: set[tuple[int, int]] = set()
        for panel in model["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            taken |= cells
            if panel["type"] != "row":
                assert all(target["expr"] for target in panel["targets"])
        assert len({panel["id"] for panel in model["panels"]}) == len(model["panels"])
