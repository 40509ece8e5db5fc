"""Logins: what they are, and how they are written down."""

import json
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError


class Login(BaseModel):
    """A password, and the user it is of where the source says so. Shows neither by accident."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    password: SecretStr = Field(min_length=1)
    username: str | None = Field(default=None, min_length=1)


class LoginSource(Protocol):
    """Gives the login that new connections are to use."""

    def read(self) -> Login:
        """The newest login, at once. Raises ValueError, in words that hold nothing secret."""
        ...

    @property
    def session_seconds_max(self) -> float | None:
        """How long a session may last so that it does not outlive its login; None: for ever."""
        ...


def parse_login(text: str) -> Login:
    """A password, or a JSON object with `username` and `password` (other fields are not looked at).

    Raises ValueError, in words that hold nothing secret.
    """
    text = text.rstrip("\r\n")
    if not text:
        raise ValueError("empty")
    if "\0" in text:
        raise ValueError("holds a NUL")
    if not text.startswith("{"):
        return Login(password=SecretStr(text))
    try:
        return Login.model_validate(json.loads(text))
    except (ValidationError, ValueError, RecursionError):  # Their texts may repeat what is in it.
        raise ValueError("not a JSON object with the texts username and password") from None
