#!/usr/bin/env python3
"""Do the services start with the variables that Terraform gives them?

Reads the root's output `environments` as JSON on stdin, adds secrets of the right form, and has
each process check its configuration: a variable that is missing or refused is named, and so is one
that no setting reads.
"""

import base64
import json
import os
import re
import subprocess
import sys

_KEY = base64.b64encode(bytes(32)).decode()
_SECRETS = {
    "ATLAS_TOKEN__KEYS": json.dumps({"1": _KEY}),
    "ATLAS_VALKEY__URL": "rediss://:token@cache.example:6379/0?ssl_ca_certs=/run/atlas/trust.pem",
    "ATLAS_KAFKA__SETTINGS": json.dumps({"security.protocol": "SASL_SSL"}),
    "ATLAS_SINK__REDSHIFT__PASSWORD": "password",
}
_MODULES = {
    "ingest": "atlas_ingest",
    "hotcache": "atlas_hotcache",
    "query": "atlas_query",
    "cdc-reconciler": "atlas_cdc_reconciler",
    "cdc-redshift": "atlas_cdc_reconciler",
    "indexer": "atlas_hotcache.indexing",
}
_CONFIGS = {"maintenance": "atlas_ingest.config:JobConfig"}
_OTHERS = {"probe", "migrations"}  # Scripts of terraform/scripts: tests run them.


def problems(process: str, variables: dict[str, str], secrets: list[str]) -> list[str]:
    """What is wrong with the variables of one process."""
    environment = dict(variables)
    environment.update({name: _SECRETS.get(name, "password") for name in secrets})
    found = [f"{name}: no setting reads it" for name in unread(process, environment)]
    status, output = check(process, environment)
    if status != 0:
        found.append(output.strip())
    return [f"{process}: {problem}" for problem in found]


def check(process: str, environment: dict[str, str]) -> tuple[int, str]:
    """The exit code and the words of the process that checks its settings."""
    if process in _CONFIGS:
        module, name = _CONFIGS[process].split(":")
        program = (
            f"from atlas_common.config import load; from {module} import {name}; load({name}, [])"
        )
        command = [sys.executable, "-c", program]
    else:
        command = [sys.executable, "-m", _MODULES[process], "--check-config"]
    return run(command, environment)


def unread(process: str, environment: dict[str, str]) -> list[str]:
    """Variables of ours that `--help` does not list; maps may be set by whole."""
    module, _, name = _CONFIGS.get(process, "").partition(":")
    command = (
        [
            sys.executable,
            "-c",
            f"from atlas_common.config import load; from {module} import {name};"
            f" load({name}, ['--help'])",
        ]
        if module
        else [sys.executable, "-m", _MODULES[process], "--help"]
    )
    _status, output = run(command, {})
    known = set(re.findall(r"^ +(ATLAS_[A-Z0-9_]+)$", output, re.MULTILINE))
    return sorted(name for name in environment if name.startswith("ATLAS_") and name not in known)


def run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run with these variables alone, and PATH."""
    done = subprocess.run(  # noqa: S603 - Our own modules, by name.
        command,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr if done.returncode else done.stdout


def main() -> int:
    """0 if every process would start."""
    environments = json.load(sys.stdin)
    unknown = set(environments) - set(_MODULES) - set(_CONFIGS) - _OTHERS
    found = [f"{process}: not known to {sys.argv[0]}" for process in sorted(unknown)]
    checked = sorted((set(environments) - _OTHERS) - unknown)
    for process in checked:
        given = environments[process]
        found += problems(process, given["variables"], given["secrets"])
    sys.stdout.writelines(f"{problem}\n" for problem in found)
    sys.stdout.write(f"{len(checked)} processes checked, {len(found)} problems\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
