"""Alerts fire when they should, and each tells what to do."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from atlas_client.cli.root import build

from .rule_files import (
    OPS,
    ROOT,
    RULE_TESTS,
    RULES,
    RUNBOOKS,
    alarms,
    alerts,
    expressions,
    rules,
    tool,
)

SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian's package prometheus has it)"
)


def test_every_alert_says_how_urgent_it_is_and_where_its_runbook_is() -> None:
    for name, alert in alerts().items():
        assert alert["labels"]["severity"] in {"page", "ticket"}, name
        assert alert["annotations"]["summary"], name
        assert alert["annotations"]["runbook_url"] == f"ops/runbooks/{name}.md"


def test_alerts_and_runbooks_are_the_same_set() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"} == set(alerts()) | alarms()


def test_alarms_of_aws_are_all_found() -> None:
    text = (ROOT / "terraform" / "alarms.tf").read_text()
    assert len(alarms()) >= text.count("description = ")
    assert {"ReplicaLagHigh", "ServiceDown", "CacheMemory", "ConnectorDown"} <= alarms()


@pytest.mark.parametrize("name", sorted(alerts().keys() | alarms()))
def test_a_runbook_has_its_four_parts_and_something_to_paste(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"(?m)^## (.+)$", text) == SECTIONS
    assert "```" in text.partition("## Diagnosis")[2].partition("## Mitigation")[0]


def test_runbooks_name_queries_and_settings_that_exist() -> None:
    monitoring = (OPS / "monitoring.sql").read_text()
    queries = set(re.findall(r"(?m)^-- name: (\w+)$", monitoring))
    sources = "".join(path.read_text() for path in ROOT.glob("*/*/src/*/config.py"))
    for path in RUNBOOKS.glob("*.md"):
        text = path.read_text()
        named = set(re.findall(r"ops/ask (\w+)", text))
        assert named <= queries, path.name
        for setting in re.findall(r"ATLAS_\w+__(\w+)", text):
            assert re.search(rf"(?m)^    {setting.lower()}:", sources), (path.name, setting)


def test_runbooks_name_commands_and_options_that_exist() -> None:
    root = get_command(build())
    for path in RUNBOOKS.glob("*.md"):
        for line in re.findall(
            r"(?:`|^)atlas ([a-z].*?)(?:`| {2,}#|$)", path.read_text(), re.MULTILINE
        ):
            words = line.split()
            command: Any = root
            while getattr(command, "commands", None) and words and words[0] in command.commands:
                command = command.commands[words.pop(0)]
            assert command is not root, (path.name, line)
            known = {option for parameter in command.params for option in parameter.opts}
            if getattr(command, "commands", None):  # `atlas reconcile` is `atlas reconcile run`.
                known |= {o for each in command.commands["run"].params for o in each.opts}
            assert {word for word in words if word.startswith("--")} <= known, (path.name, line)


def test_every_alert_has_a_test() -> None:
    named = {
        case["name"].partition(":")[0]
        for path in RULE_TESTS
        for case in yaml.safe_load(path.read_text())["tests"]
    }
    assert named == set(alerts())


def test_the_objectives_are_what_the_code_makes() -> None:
    slo = tool("slo")
    assert slo.FILE.read_text() == slo.rendered(), "run tools/slo.py"


def test_what_rules_record_is_recorded_once_and_used_as_it_is_called() -> None:
    recorded = [(rule["record"], str(rule.get("labels"))) for rule in rules() if "record" in rule]
    assert len(recorded) == len(set(recorded))
    used = {
        name
        for expr in expressions()
        for name in re.findall(r"\b\w+:\w+:\w+\b|\batlas:\w+:\w+", expr)
    }
    assert used <= {name for name, _ in recorded}


@needs_promtool
def test_rules_are_valid() -> None:
    _promtool("check", "rules", *RULES)


@needs_promtool
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_do_not_fire(path: Path) -> None:
    _promtool("test", "rules", path)


def _promtool(*arguments: str | Path) -> None:
    assert PROMTOOL is not None
    version = subprocess.run([PROMTOOL, "--version"], capture_output=True, text=True, check=True)
    ran = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    told = (version.stdout or version.stderr).splitlines()[0]
    assert ran.returncode == 0, f"{told}\n{ran.stdout}\n{ran.stderr}"


def test_ask_prints_one_query_whole_and_says_when_there_is_none() -> None:
    ask = OPS / "ask"
    named = re.findall(r"(?m)^-- name: (\w+)$", (OPS / "monitoring.sql").read_text())
    listed = subprocess.run([ask], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == named
    parts = [
        subprocess.run([ask, name], capture_output=True, text=True, check=True).stdout
        for name in (named[0], named[-1])
    ]
    assert all(part.count("-- name: ") == 1 and part.endswith(";\n") for part in parts)
    unknown = subprocess.run([ask, "nothing"], capture_output=True, text=True, check=False)
    assert unknown.returncode == 1
    assert "no query nothing" in unknown.stderr
