"""A real Prometheus with the configuration that docker-compose.yml mounts."""

import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from atlas_devstack.component import Component
from atlas_devstack.ports import LOOPBACK, free_port
from atlas_devstack.process import Launch
from atlas_devstack.waiting import Patience

from .rule_files import OPS, ROOT

PROGRAM = shutil.which("prometheus")
"""Debian's package `prometheus` has it."""


class Prometheus(Component):
    """Scrapes `target` for the collector, and looks every second where it would every ten."""

    def __init__(self, directory: Path, target: str, patience: Patience) -> None:
        super().__init__("prometheus", patience)
        self._directory = directory
        self._target = target
        self.port = free_port(set())

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self._address}/-/ready", timeout=5).close()
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query. Raises HTTPError when it is refused."""
        found = self._asked("query", query=expression)["result"]
        return list(found)

    def up(self) -> dict[str, str]:
        """Scraped job -> up, down or unknown."""
        targets = self._asked("targets", state="active")["activeTargets"]
        return {target["scrapePool"]: target["health"] for target in targets}

    def rules(self) -> list[dict[str, Any]]:
        """All rules as they were evaluated last."""
        return [rule for group in self._asked("rules")["groups"] for rule in group["rules"]]

    def firing(self) -> set[tuple[str, str]]:
        """The alerts that fire, with the label `name` ("" for those that have none).

        Without those of objectives: a crowded machine misses them.
        """
        return {
            (alert["labels"]["alertname"], alert["labels"].get("name", ""))
            for alert in self._asked("alerts")["alerts"]
            if alert["state"] == "firing" and "slo" not in alert["labels"]
        }

    @property
    def _address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def _asked(self, what: str, **parameters: str) -> Any:
        address = f"{self._address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=20) as answer:
            return json.load(answer)["data"]

    def _prepare(self) -> Launch:
        configuration, data = self._directory / "etc", self._directory / "data"
        shutil.copytree(OPS / "prometheus", configuration)
        self._fit(configuration / "prometheus.yml")
        assert PROGRAM is not None
        places = {"/etc/prometheus": str(configuration), "/prometheus": str(data)}
        return Launch(
            name=self.name,
            command=[
                PROGRAM,
                *(_moved(argument, places) for argument in _arguments()),
                f"--web.listen-address={LOOPBACK}:{self.port}",
            ],
            environment={"PATH": os.defpath},
            directory=self._directory,
            log_path=self._directory / "prometheus.log",
            record_path=self._directory / "prometheus.json",
        )

    def _fit(self, file: Path) -> None:
        """Other addresses than in containers, and less waiting: nothing else is changed."""
        text = file.read_text()
        for committed, here in (
            ("otel-collector:8889", self._target),
            ("127.0.0.1:9090", f"{LOOPBACK}:{self.port}"),
            ("scrape_interval: 10s", "scrape_interval: 1s"),
            ("evaluation_interval: 10s", "evaluation_interval: 1s"),
        ):
            assert text.count(committed) == 1, committed
            text = text.replace(committed, here)
        file.write_text(text)


def _arguments() -> list[str]:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return list(compose["services"]["prometheus"]["command"])


def _moved(argument: str, places: dict[str, str]) -> str:
    flag, _, value = argument.partition("=")
    for inside, here in places.items():
        if value == inside or value.startswith(f"{inside}/"):
            return f"{flag}={here}{value.removeprefix(inside)}"
    return argument
