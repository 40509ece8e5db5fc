"""HashiCorp Vault, or OpenBao, as a store: the HTTP API that both document.

Any path that is read with GET does: static logins of KV (`secret/data/atlas/query`), and
short-lived ones that the database engine makes when it is asked (`database/creds/atlas-query`).
"""

import json
import threading
import time
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlas_common.bounded_http import BoundedHttp, Request, told
from atlas_common.config import VaultAppRoleConfig, VaultConfig, VaultWorkloadConfig
from atlas_common.secrets.file import SECRET_BYTES_MAX, read_text
from atlas_common.secrets.store import Secret

ANSWER_BYTES_MAX = 2 * SECRET_BYTES_MAX  # What is around a secret, and how JSON writes it.
_FORBIDDEN = 403
_REFUSALS = (400, _FORBIDDEN)  # Of a login: by which of them depends on the method.
_STATUSES = {
    400: "Vault takes this for no sound request (status 400)",
    _FORBIDDEN: "Vault's policies do not allow it, or the token has ended (status 403)",
    404: "there is no such secret (status 404)",
    503: "Vault is sealed or in maintenance (status 503)",
}


class Vault:
    """As Store."""

    def __init__(self, config: VaultConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises OSError when the authorities cannot be read."""
        self._http = BoundedHttp(config.ca_file, config.timeout_seconds, ANSWER_BYTES_MAX)
        self._address = config.address.rstrip("/")
        self._namespace = config.namespace
        self._clock = clock
        self._login = _login(config)
        self._token_file = config.token_file
        self._token: _Token | None = None
        self._lock = threading.Lock()

    def fetch(self, name: str) -> Secret:
        """As Store."""
        token = self._current()
        try:
            answer = self._asked(name, token=token.text)
        except _RefusedError as error:
            if error.code != _FORBIDDEN:
                raise
            token = self._another_than(token, error)
            answer = self._asked(name, token=token.text)
        secret = _secret(answer)
        if secret.lease_seconds is None:
            return secret
        # A token takes the leases that it was given along.
        left = self._left_seconds(token)
        return Secret(secret.text, min(secret.lease_seconds, left))

    def _current(self) -> "_Token":
        with self._lock:
            if self._token is None or self._clock() >= self._token.renew_at:
                self._token = self._new_token()
            return self._token

    def _another_than(self, token: "_Token", refused: "_RefusedError") -> "_Token":
        """Raises ValueError when there is none."""
        with self._lock:
            if self._token is token:
                self._token = self._new_token()
            if self._token is None or self._token.text == token.text:
                raise refused
            return self._token

    def _new_token(self) -> "_Token":
        now = self._clock()
        if self._login is None:
            assert self._token_file is not None
            return _Token(_line(self._token_file), renew_at=now)  # The file is read each time.
        try:
            answer = self._asked(self._login.path, body=self._login.body())
        except _RefusedError as error:
            if error.code not in _REFUSALS:
                raise
            raise ValueError(f"Vault refuses the login (status {error.code})") from None
        auth = answer.get("auth")
        if not isinstance(auth, dict) or not isinstance(auth.get("client_token"), str):
            raise ValueError("Vault's answer to the login has no token")  # noqa: TRY004 - of an answer.
        seconds = _seconds(auth.get("lease_duration")) or float("inf")
        return _Token(auth["client_token"], renew_at=now + seconds / 2, ends_at=now + seconds)

    def _left_seconds(self, token: "_Token") -> float:
        if token.ends_at is not None:
            return token.ends_at - self._clock()
        try:
            data = self._asked("auth/token/lookup-self", token=token.text).get("data")
        except _RefusedError as error:
            if error.code != _FORBIDDEN:
                raise
            return float("inf")  # Its policies do not let it ask; then whoever renews it has to.
        return _seconds(data.get("ttl") if isinstance(data, dict) else None) or float("inf")

    def _asked(
        self, path: str, *, token: str | None = None, body: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        headers = {"X-Vault-Request": "true"}
        if token is not None:
            headers["X-Vault-Token"] = token
        if self._namespace is not None:
            headers["X-Vault-Namespace"] = self._namespace
        sent = None if body is None else json.dumps(body).encode()
        try:
            answer = self._http.answer(Request(f"{self._address}/v1/{path}", headers, sent))
        except urllib.error.HTTPError as error:
            raise _RefusedError(error.code) from None
        except OSError as error:
            raise ValueError(told(error)) from None
        return _object(answer)


class _RefusedError(ValueError):
    def __init__(self, code: int) -> None:
        super().__init__(_STATUSES.get(code, f"Vault answers with status {code}"))
        self.code = code


@dataclass(frozen=True)
class _Token:
    text: str = field(repr=False)
    renew_at: float
    ends_at: float | None = None
    """None: not told yet."""


@dataclass(frozen=True)
class _Login:
    path: str
    body: Callable[[], Mapping[str, str]]


def _login(config: VaultConfig) -> _Login | None:
    match config.app_role or config.workload:
        case VaultAppRoleConfig() as role:
            return _Login(
                f"auth/{role.mount}/login",
                lambda: {"role_id": role.role_id, "secret_id": _line(role.secret_id_file)},
            )
        case VaultWorkloadConfig() as workload:
            return _Login(
                f"auth/{workload.mount}/login",
                lambda: {"role": workload.role, "jwt": _line(workload.jwt_file)},
            )
        case None:
            return None


def _line(file: str) -> str:
    """What is in a file of one line. Raises ValueError."""
    try:
        text = read_text(Path(file)).strip()
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError(f"{file}: not a line of text")
    return text


def _object(answer: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise ValueError("not an answer of Vault")  # noqa: TRY004 - of an answer.
    return parsed


def _secret(answer: dict[str, Any]) -> Secret:
    data = answer.get("data")
    if isinstance(data, dict) and set(data) == {"data", "metadata"}:  # KV, version 2.
        data = data["data"]
    if not isinstance(data, dict):
        raise ValueError("the answer of Vault holds no secret")  # noqa: TRY004 - of an answer.
    text = json.dumps(data, sort_keys=True)
    if len(text) > SECRET_BYTES_MAX:
        raise ValueError(f"larger than {SECRET_BYTES_MAX} bytes")
    return Secret(text, _seconds(answer.get("lease_duration")) if answer.get("lease_id") else None)


def _seconds(value: object) -> float | None:
    """A duration as Vault tells it; None where it tells none."""
    return float(value) if isinstance(value, int | float) and value > 0 else None
