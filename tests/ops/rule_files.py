"""Rules, alerts and dashboards as committed, and the metrics that they use."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OPS = ROOT / "ops"
RULES = sorted((OPS / "prometheus" / "rules").glob("*.yml"))
RULE_TESTS = sorted((OPS / "prometheus" / "tests").glob("*.yml"))
DASHBOARDS = sorted((OPS / "grafana" / "dashboards").glob("*.json"))
RUNBOOKS = OPS / "runbooks"
_METRIC = re.compile(r"(?<![:\w])atlas_\w+")
_ALARM = re.compile(r'(?m)^ {6}(?:for .*: )?"?([A-Z][A-Za-z]+)(?:-\S+")? =>? \{')
_STRING = re.compile(r'"[^"]*"')
_MATCHER = re.compile(r"(\batlas_\w+)\{([^}]*)\}")
_LE = re.compile(r'(\batlas_\w+_bucket)\{[^}]*\ble="([^"]+)"')


def tool(name: str) -> ModuleType:
    """tools/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Where dataclasses look for their module.
    spec.loader.exec_module(module)
    return module


@cache
def rules() -> list[dict[str, Any]]:
    """All rules of all files."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Those that are alerts, by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


@cache
def alarms() -> frozenset[str]:
    """CloudWatch's alarms, by the part of their names that is the runbook's."""
    text = (ROOT / "terraform" / "alarms.tf").read_text()
    # The module of alarms makes these of objectives.
    burn = {"ErrorBudgetBurnFast", "ErrorBudgetBurnSlow"}
    return frozenset(burn | set(_ALARM.findall(text)))


def alarm_metrics() -> set[str]:
    """Services' metrics, by OpenTelemetry's names, that CloudWatch's alarms and dashboards read."""
    return set(re.findall(r'"(atlas\.[a-z_.]+)"', (ROOT / "terraform" / "alarms.tf").read_text()))


def expressions() -> Iterator[str]:
    """All PromQL of rules and dashboards, without comments."""
    for rule in rules():
        yield re.sub(r"(?m)^\s*#.*$", "", rule["expr"])
    yield from panel_queries()


def panel_queries() -> Iterator[str]:
    """All PromQL of dashboards, with their variables."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            yield from (target["expr"] for target in panel.get("targets", ()))


@cache
def used_metrics() -> frozenset[str]:
    """Metrics of ours that some expression reads; not those that rules record, with a colon."""
    return frozenset(
        name for expr in expressions() for name in _METRIC.findall(_STRING.sub("", expr))
    )


@cache
def used_labels() -> frozenset[tuple[str, str]]:
    """(metric, label) where an expression selects by it."""
    return frozenset(
        (metric, label)
        for expr in expressions()
        for metric, matchers in _MATCHER.findall(expr)
        for label in re.findall(r"(\w+)\s*[=!]", _STRING.sub('""', matchers))
    )


def used_boundaries() -> set[tuple[str, str]]:
    """(histogram, le) where an expression counts what is below a boundary."""
    return {found for expr in expressions() for found in _LE.findall(expr)}
