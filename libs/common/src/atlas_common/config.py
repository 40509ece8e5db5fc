"""The settings of a service: read from the environment (and secret files) once, then frozen.

Variables start with ATLAS_, nested fields are joined by `__`: `ATLAS_RPC__PORT`. A file of the same
name in the directory ATLAS_SECRETS_DIR does as well; the environment wins.
"""

import argparse
import base64
import binascii
import json
import os
import socket
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

PREFIX = "ATLAS_"
DELIMITER = "__"
SECRETS_DIR_VARIABLE = "ATLAS_SECRETS_DIR"
EXIT_BAD_CONFIG = 2


class Section(BaseModel):
    """A group of settings. A name that does not exist in it is an error, not a shrug."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class RpcConfig(Section):
    """How the service is called."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=0, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    port_file: str | None = Field(
        default=None,
        description='Where to write "host:port" and a newline, once the service is serving.',
    )
    grace_seconds: float = Field(
        default=10.0, ge=0, description="How long running calls may go on after SIGTERM."
    )
    max_concurrent_rpcs: int = Field(
        default=1000, ge=1, description="Calls at work at a time; more are refused as OVERLOADED."
    )
    max_message_bytes: int = Field(
        default=16 * 2**20, ge=1024, description="Largest request and response message."
    )
    default_deadline_seconds: float = Field(
        default=30.0, gt=0, description="Deadline of a unary call that brings none."
    )
    deadline_floor_ms: float = Field(
        default=5.0, ge=0, description="A call with less time than this left is refused at once."
    )
    deadline_reserve_ms: float = Field(
        default=20.0,
        ge=0,
        description="Taken off the working time, so that a timeout can be reported.",
    )
    logged_calls_per_second_max: float = Field(
        default=20.0,
        ge=0,
        description="Most calls without an error that get a log line; the others are counted.",
    )
    readiness_interval_seconds: float = Field(
        default=1.0, gt=0, description="How often the dependencies are checked."
    )
    readiness_timeout_seconds: float = Field(
        default=2.0, gt=0, description="How long one check of a dependency may take."
    )


class TelemetryConfig(Section):
    """Logs, traces and metrics."""

    otlp_endpoint: str | None = Field(
        default=None, description="OTLP/gRPC collector, as http://host:4317; unset exports nothing."
    )
    spans_file: str | None = Field(
        default=None,
        description="File that gets one JSON line per span; for tests and development.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line that is written."
    )
    metrics_interval_seconds: float = Field(
        default=10.0, gt=0, description="How often metrics are sent to the collector."
    )


class TokenConfig(Section):
    """Keys of freshness tokens and page tokens."""

    keys: dict[int, SecretStr] = Field(
        min_length=1,
        description='JSON object {"<key id 1..255>": "<base64 of at least 16 bytes>"}.',
    )
    active_key: int = Field(description="Id of the key that seals; the others only open.")

    @model_validator(mode="after")
    def _keys_fit(self) -> "TokenConfig":
        if self.active_key not in self.keys:
            raise ValueError(f"active_key {self.active_key} is not among keys {sorted(self.keys)}")
        for key_id, key in self.key_bytes().items():
            if not 1 <= key_id <= 255:
                raise ValueError(f"key id {key_id} is not in 1..255")
            if len(key) < 16:
                raise ValueError(f"key {key_id} is shorter than 16 bytes")
        return self

    def key_bytes(self) -> dict[int, bytes]:
        """The keys themselves, by id. Raises ValueError for a key that is not base64."""
        keys = {}
        for key_id, key in self.keys.items():
            try:
                keys[key_id] = base64.b64decode(key.get_secret_value(), validate=True)
            except binascii.Error:
                raise ValueError(f"key {key_id} is not base64") from None
        return keys


class DatabaseConfig(Section):
    """One Postgres server, and how its connections behave."""

    dsn: SecretStr = Field(description="libpq connection string or URL, with the service's role.")
    pooler: bool = Field(
        default=False,
        description="The DSN leads to a transaction pooler: nothing is kept in sessions.",
    )
    pool_size_min: int = Field(default=1, ge=0, description="Connections kept open.")
    pool_size_max: int = Field(default=8, ge=1, description="Most connections open.")
    acquire_timeout_seconds: float = Field(
        default=2.0, gt=0, description="How long to wait for a free connection."
    )
    acquire_waiting_max: int = Field(
        default=256,
        ge=1,
        description="Most callers waiting for a connection; more are refused at once.",
    )
    connect_timeout_seconds: int = Field(
        default=3, ge=1, description="How long connecting may take."
    )
    statement_timeout_seconds: float = Field(
        default=30.0, ge=0, description="Longest statement; 0 means no bound."
    )
    lock_timeout_seconds: float = Field(default=5.0, ge=0, description="Longest wait for a lock.")
    idle_in_transaction_timeout_seconds: float = Field(
        default=60.0,
        ge=0,
        description="Longest pause inside a transaction before the server ends it.",
    )
    prepare_threshold: int = Field(
        default=5,
        ge=0,
        description="Executions after which a statement is prepared; unused with a pooler.",
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> "DatabaseConfig":
        if self.pool_size_min > self.pool_size_max:
            raise ValueError("pool_size_min is above pool_size_max")
        return self


class ReplicaConfig(DatabaseConfig):
    """A streaming replica: a database with a name."""

    name: str = Field(min_length=1, max_length=63, description="For logs and read metadata.")


class PeerConfig(Section):
    """Another service of the platform."""

    target: str = Field(min_length=1, description="gRPC target, as host:port.")
    timeout_seconds: float = Field(
        default=5.0, gt=0, description="Longest call, whatever the caller allows."
    )


class ServiceConfig(BaseSettings):
    """What every service can be told. Subclass it and add the service's own fields."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        frozen=True,
        extra="ignore",  # Services share an environment: another's variable is no mistake here.
        hide_input_in_errors=True,
        secrets_dir_missing="error",
    )

    environment: Literal["dev", "staging", "prod"] = Field(
        default="dev", description="Where this runs; dev alone trusts callers to say who they are."
    )
    instance: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        description="Name of this process in logs and spans; unset: host and process id.",
    )
    rpc: RpcConfig = Field(default_factory=RpcConfig, description="How the service is called.")
    telemetry: TelemetryConfig = Field(
        default_factory=TelemetryConfig, description="Logs, traces and metrics."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then secret files, whose names nest like variables."""
        directory = os.environ.get(SECRETS_DIR_VARIABLE)
        files = NestedSecretsSettingsSource(
            file_secret_settings, secrets_dir=directory, secrets_dir_missing="error"
        )
        return (init_settings, env_settings, files)

    def describe(self) -> dict[str, Any]:
        """The effective settings as plain JSON values, secrets hidden; for the log."""
        described: dict[str, Any] = self.model_dump(mode="json")
        return described


ConfigT = TypeVar("ConfigT", bound=ServiceConfig)


def load(config_class: type[ConfigT], argv: Sequence[str] | None = None) -> ConfigT:
    """The settings of this process, or the end of it.

    `--check-config` prints the effective settings and exits 0, `--help` lists the variables and
    exits 0, a bad value is named on stderr and exits 2.
    """
    parser = argparse.ArgumentParser(
        description=config_class.__doc__,
        epilog="environment variables:\n" + "\n".join(_help_lines(config_class)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--check-config", action="store_true", help="print the effective settings and exit"
    )
    arguments = parser.parse_args(argv)
    try:
        config = config_class()  # The environment is read here.
    except ValidationError as error:
        _refuse([line for problem in error.errors() for line in _problem(config_class, problem)])
    except SettingsError as error:
        _refuse([_unparsed(error)])
    if arguments.check_config:
        sys.stdout.write(json.dumps(config.describe(), indent=2) + "\n")
        raise SystemExit(0)
    return config


def _refuse(problems: Sequence[str]) -> NoReturn:
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    raise SystemExit(EXIT_BAD_CONFIG)


def _problem(config_class: type[BaseModel], problem: ErrorDetails) -> Iterator[str]:
    """One line; for a missing section one line for each variable that it cannot do without."""
    location = problem["loc"]
    if problem["type"] == "missing" and len(location) == 1:
        name = str(location[0])
        section = _section(config_class.model_fields[name].annotation)
        if section is not None:
            for variable, field in _leaves(section, (name,)):
                if field.is_required():
                    yield f"{variable}: {problem['msg']}"
            return
    yield f"{_variable(location)}: {problem['msg']}"


def _variable(location: tuple[int | str, ...]) -> str:
    """("replicas", 0, "dsn") -> ATLAS_REPLICAS[0].dsn, ("rpc", "port") -> ATLAS_RPC__PORT."""
    names: list[str] = []
    rest = ""
    for part in location:
        if isinstance(part, int):
            rest += f"[{part}]"
        elif rest:
            rest += f".{part}"
        else:
            names.append(part.upper())
    return PREFIX + DELIMITER.join(names) + rest


def _unparsed(error: SettingsError) -> str:
    """Name the variable whose JSON does not parse; the message has the field in quotes."""
    message = str(error)
    quoted = message.split('"')
    if len(quoted) > 2 and message.startswith("error parsing value"):
        cause = f": {error.__cause__}" if isinstance(error.__cause__, json.JSONDecodeError) else ""
        return f"{_unparsed_variable(_variable((quoted[1],)))}: not valid JSON{cause}"
    return f"{SECRETS_DIR_VARIABLE}: {message}"


def _unparsed_variable(name: str) -> str:
    """The library names the section, its nested variables are what people set: find the bad one."""
    for variable, value in os.environ.items():
        if variable.upper().startswith(name + DELIMITER) and value.lstrip().startswith(("{", "[")):
            try:
                json.loads(value)
            except json.JSONDecodeError:
                return variable
    return name


def _help_lines(config_class: type[BaseModel]) -> Iterator[str]:
    yield f"  {SECRETS_DIR_VARIABLE}"
    yield "      Directory with a file per secret, named like the variable. Default: none."
    for name, field in _leaves(config_class, ()):
        yield f"  {name}"
        yield f"      {field.description or ''} {_default(field)}"


def _leaves(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            yield from _leaves(section, (*path, name))
        else:
            yield _variable((*path, name)), field


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model behind `X`, `X | None` or Annotated[X, ...]; None for a plain value or a list."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _section(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        found = [_section(argument) for argument in get_args(annotation)]
        return next((model for model in found if model is not None), None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "Required."
    if field.default_factory is not None:
        return "Default: made at start."
    if field.default is None:
        return "Default: none."
    default = field.default
    if isinstance(default, str | bool | int | float):
        return f"Default: {default}."
    return f"Default: {json.dumps(default, default=str)}."
