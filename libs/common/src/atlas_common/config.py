"""The settings of a service: read from the environment (and secret files) once, then frozen.

Variables start with ATLAS_, nested fields are joined by `__`: `ATLAS_RPC__PORT`. A file of the same
name in the directory ATLAS_SECRETS_DIR does as well; the environment wins.
"""

import argparse
import json
import os
import socket
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from atlas_common.caller import SCOPES
from atlas_common.key_ring import KeyRing
from atlas_common.secrets import FORMS, check_login_source, check_source
from atlas_common.transport import dsn_words, unverified_postgres

PREFIX = "ATLAS_"
DELIMITER = "__"
SECRETS_DIR_VARIABLE = "ATLAS_SECRETS_DIR"
EXIT_BAD_CONFIG = 2


class Section(BaseModel):
    """A group of settings. A name that does not exist in it is an error, not a shrug."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def unverified(self) -> tuple[str, str] | None:
        """The setting by which another host is reached that is not verified, and the way out."""
        return None


PasswordSource = Annotated[str | None, AfterValidator(check_login_source)]
"""The setting `password_source` of whatever is logged in to."""
PASSWORD_SOURCE = (
    f"Where the password is, in place of the {{}}'s: {FORMS}. Looked up for each new connection."
    " JSON with username and password names the user as well."
)


class ServerTlsConfig(Section):
    """How the service proves itself, and who may connect to it."""

    certificate_file: str = Field(
        description="The service's certificate with its chain, PEM; read again when it changes."
    )
    key_file: str = Field(description="The private key of that, PEM, not encrypted.")
    client_ca_file: str | None = Field(
        default=None,
        description="Authorities of client certificates, PEM. With it every connection needs one:"
        " on ATLAS_RPC__PEER_PORT if that is set, else on ATLAS_RPC__PORT.",
    )


class RpcConfig(Section):
    """How the service is called."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=0, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    peer_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Another port, which asks for client certificates; ATLAS_RPC__PORT, for callers"
        " with tokens, then does not.",
    )
    health_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="A port without TLS that answers health checks and nothing else.",
    )
    tls: ServerTlsConfig | None = Field(
        default=None, description="Certificates; unset: connections are in the clear."
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
    stalled_reader_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="How long the reader of a stream may take nothing."
    )
    keepalive_seconds: float = Field(
        default=60.0, ge=1, description="How often a connection is asked whether it is alive."
    )
    keepalive_timeout_seconds: float = Field(
        default=20.0, ge=0.1, description="How long its answer may take; then it is closed."
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

    @model_validator(mode="after")
    def _peers_have_authorities(self) -> "RpcConfig":
        if self.peer_port is not None and (self.tls is None or self.tls.client_ca_file is None):
            raise ValueError("peer_port needs tls.client_ca_file")
        return self


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


class VaultAppRoleConfig(Section):
    """A login of Vault's method AppRole."""

    role_id: str = Field(min_length=1, description="The role's id.")
    secret_id_file: str = Field(description="File with the secret id; read for each login.")
    mount: str = Field(default="approle", pattern=r"^[\w/-]+$", description="Where the method is.")


class VaultWorkloadConfig(Section):
    """A login of Vault's methods Kubernetes and JWT, by the token of a workload."""

    role: str = Field(min_length=1, description="The role's name.")
    jwt_file: str = Field(
        default="/var/run/secrets/kubernetes.io/serviceaccount/token",
        description="File with the workload's token; read for each login.",
    )
    mount: str = Field(
        default="kubernetes", pattern=r"^[\w/-]+$", description="Where the method is."
    )


class VaultConfig(Section):
    """The HashiCorp Vault, or OpenBao, that sources vault:... are read from."""

    address: str = Field(
        pattern=r"^https?://[^/?#\s]+/?$",
        description="As https://host:8200. (http: only of this host, or in dev.)",
    )
    ca_file: str | None = Field(
        default=None, description="Authorities of its certificate, PEM; unset: the system's."
    )
    namespace: str | None = Field(default=None, description="The namespace, if there are any.")
    token_file: str | None = Field(
        default=None,
        description="File with a token; read each time, so that an agent may renew it.",
    )
    app_role: VaultAppRoleConfig | None = Field(
        default=None, description="A login by AppRole, in place of a token."
    )
    workload: VaultWorkloadConfig | None = Field(
        default=None, description="A login by the token of a workload, in place of that."
    )
    timeout_seconds: float = Field(
        default=5.0, gt=0, le=60, description="How long an answer may take."
    )

    @model_validator(mode="after")
    def _logs_in_one_way(self) -> "VaultConfig":
        ways = (self.token_file, self.app_role, self.workload)
        if sum(way is not None for way in ways) != 1:
            raise ValueError("set one of token_file, app_role, workload")
        return self


class AwsConfig(Section):
    """The AWS Secrets Manager that sources aws-secretsmanager:... are read from."""

    region: str | None = Field(
        default=None, description="Of secrets named without one; unset: the environment's."
    )
    endpoint_url: str | None = Field(
        default=None, description="Another address than the region's, as of a VPC endpoint."
    )
    timeout_seconds: float = Field(
        default=5.0, gt=0, le=60, description="How long connecting, and an answer, may take."
    )


class SecretsConfig(Section):
    """Where secrets are that other settings name as ..._SOURCE."""

    refresh_seconds: float = Field(
        default=60.0,
        ge=1,
        description="How often a store is asked; for what it leases, at half of the lease.",
    )
    vault: VaultConfig | None = Field(default=None, description="HashiCorp Vault or OpenBao.")
    aws: AwsConfig = Field(default_factory=AwsConfig, description="AWS Secrets Manager.")


class TokenConfig(Section):
    """Keys of freshness tokens and page tokens: set keys and active_key, or keys_source."""

    keys: dict[int, SecretStr] = Field(
        default_factory=dict,
        description='JSON object {"<key id 1..255>": "<base64 of at least 16 bytes>"}.',
    )
    active_key: int | None = Field(
        default=None, description="Id of the key that seals; the others only open."
    )
    keys_source: Annotated[str | None, AfterValidator(check_source)] = Field(
        default=None,
        description=f"Where both are, in place of these, as JSON {{keys, active_key}}: {FORMS}."
        " Read again while the service runs: a file every second.",
    )

    @model_validator(mode="after")
    def _keys_fit(self) -> "TokenConfig":
        if self.keys_source is None:
            self.ring()
        elif self.keys or self.active_key is not None:
            raise ValueError("set keys and active_key, or keys_source")
        return self

    def ring(self) -> KeyRing:
        """The keys that are given. Raises ValueError."""
        if not self.keys or self.active_key is None:
            raise ValueError("set keys and active_key, or keys_source")
        keys = {key_id: key.get_secret_value() for key_id, key in self.keys.items()}
        return KeyRing.of_base64(keys, self.active_key)


class DatabaseConfig(Section):
    """One Postgres server, and how its connections behave."""

    dsn: SecretStr = Field(
        description="libpq connection string or URL, with the service's role. To another host with"
        " sslmode=verify-full and sslrootcert=/path, outside dev."
    )
    password_source: PasswordSource = Field(default=None, description=PASSWORD_SOURCE.format("DSN"))
    connection_lifetime_seconds: float = Field(
        default=3600.0,
        ge=1,
        description="Age at which a pooled connection is replaced, by the newest login. A login"
        " with a lease replaces it at a third of that.",
    )
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

    @field_validator("dsn")
    @classmethod
    def _is_a_dsn(cls, dsn: SecretStr) -> SecretStr:
        dsn_words(dsn.get_secret_value())
        return dsn

    def unverified(self) -> tuple[str, str] | None:
        """As Section."""
        way_out = unverified_postgres(self.dsn.get_secret_value())
        return None if way_out is None else ("dsn", way_out)

    @model_validator(mode="after")
    def _sizes_fit(self) -> "DatabaseConfig":
        if self.pool_size_min > self.pool_size_max:
            raise ValueError("pool_size_min is above pool_size_max")
        return self


class ReplicaConfig(DatabaseConfig):
    """A streaming replica: a database with a name."""

    name: str = Field(min_length=1, max_length=63, description="For logs and read metadata.")


class ChannelTlsConfig(Section):
    """How another service is believed, and how we prove ourselves to it."""

    ca_file: str | None = Field(
        default=None, description="Authorities of its certificate, PEM; unset: the system's."
    )
    certificate_file: str | None = Field(
        default=None, description="Our certificate, PEM; new connections read it again."
    )
    key_file: str | None = Field(default=None, description="The private key of that, PEM.")
    server_name: str | None = Field(
        default=None, description="The name in its certificate, where it is not the target's host."
    )

    @model_validator(mode="after")
    def _has_both_or_none(self) -> "ChannelTlsConfig":
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together")
        return self


class PeerConfig(Section):
    """Another service of the platform."""

    target: str = Field(min_length=1, description="gRPC target, as host:port.")
    tls: ChannelTlsConfig | None = Field(
        default=None, description="Certificates; unset: the connection is in the clear."
    )
    timeout_seconds: float = Field(
        default=5.0, gt=0, description="Longest call, whatever the caller allows."
    )


class JwtConfig(Section):
    """Which signed tokens are believed."""

    jwks: str = Field(
        min_length=1,
        description="The issuer's JSON Web Key Set: a file, or an https address. (http: only of"
        " this host, or in dev.)",
    )
    jwks_ca_file: str | None = Field(
        default=None, description="Authorities of that address, PEM; unset: the system's."
    )
    issuer: str = Field(min_length=1, description="What a token's iss has to be.")
    audience: str = Field(min_length=1, description="What a token's aud has to be, or to contain.")
    algorithms: tuple[
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"],
        ...,
    ] = Field(
        default=("RS256", "ES256", "EdDSA"),
        min_length=1,
        description="Signatures that are accepted. There are no symmetric ones to choose.",
    )
    leeway_seconds: float = Field(
        default=30.0, ge=0, le=300, description="By how much clocks may differ, for exp and nbf."
    )
    tenant_claim: str = Field(
        default="tenant", min_length=1, description="The claim that holds the tenant's key."
    )
    scope_claim: str = Field(
        default="scope",
        min_length=1,
        description="The claim that holds the scopes: text with spaces between them, or a list.",
    )
    remembered_tokens_max: int = Field(
        default=4096, ge=1, description="Most tokens that are not verified anew at every call."
    )
    renew_seconds: float = Field(
        default=300.0, gt=0, description="How often the address is asked; a file every second."
    )
    renew_seconds_min: float = Field(
        default=10.0,
        gt=0,
        description="How soon it is asked again because a token names an unknown key.",
    )
    fetch_timeout_seconds: float = Field(
        default=5.0, gt=0, description="How long the address may take to answer."
    )
    keys_age_seconds_max: float = Field(
        default=86_400.0,
        gt=0,
        description="How long keys are believed that cannot be renewed; then no token is.",
    )


class IdentityConfig(Section):
    """How it is known who calls."""

    mode: Literal["verified", "insecure"] = Field(
        default="verified",
        description="verified: by tokens, client certificates or both. insecure: whoever calls may"
        " do everything to every tenant; dev alone allows that.",
    )
    jwt: JwtConfig | None = Field(
        default=None, description="Signed tokens, in the metadata authorization: Bearer ..."
    )
    peers: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="JSON object: which client certificates are believed, and the scopes they have."
        " By a name in the certificate: a URI such as spiffe://..., or a DNS name.",
    )

    @field_validator("peers")
    @classmethod
    def _scopes_exist(cls, peers: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, scopes in peers.items():
            unknown = sorted(set(scopes) - SCOPES)
            if unknown:
                raise ValueError(
                    f"{name}: there is no scope {', '.join(unknown)}; there are"
                    f" {', '.join(sorted(SCOPES))}"
                )
        return peers


class PolicyConfig(Section):
    """How a service runs the policies of its jobs."""

    poll_seconds: float = Field(
        default=2.0, gt=0, le=60, description="Longest time between two looks for what is due."
    )
    lease_seconds: float = Field(
        default=30.0, ge=3, description="How long after a process's death another runs its policy."
    )
    retry_seconds: float = Field(
        default=60.0, gt=0, description="When a run that failed is repeated, if not due before."
    )
    run_seconds_max: float = Field(
        default=21_600.0, gt=0, description="A run that takes longer is given up."
    )


class QuotaConfig(Section):
    """What a tenant may take, where the catalog has no quota of its own for it."""

    points_per_second: float = Field(
        default=1_000_000.0, gt=0, description="Points that are taken in."
    )
    calls_per_second: float = Field(default=10_000.0, gt=0, description="Calls of each service.")
    entities: int = Field(default=10_000_000, ge=0, description="Entities in the catalog.")
    attributes: int = Field(
        default=10_000, ge=0, le=100_000, description="Attributes in the catalog."
    )
    concurrent_streams: int = Field(
        default=1_000, ge=0, description="Streaming calls of each service at a time."
    )
    warehouse_seconds_per_minute: float = Field(
        default=240.0, gt=0, description="How long the warehouse may read, in all of a minute."
    )
    burst_seconds: float = Field(
        default=2.0, gt=0, le=3600, description="For how long unused calls and points add up."
    )
    processes: int = Field(
        default=1,
        ge=1,
        description="How many processes of this service share the calls: each grants its share of"
        " the rates and the streams.",
    )
    tenants_max: int = Field(
        default=10_000, ge=1, description="Tenants whose use is known at a time."
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
        default="dev",
        description="Where this runs; dev alone allows the insecure mode, and servers on other"
        " hosts that are not verified.",
    )
    instance: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        description="Name of this process in logs and spans; unset: host and process id.",
    )
    rpc: RpcConfig = Field(default_factory=RpcConfig, description="How the service is called.")
    identity: IdentityConfig = Field(
        default_factory=IdentityConfig, description="How it is known who calls."
    )
    quota: QuotaConfig = Field(
        default_factory=QuotaConfig, description="What a tenant may take of the service."
    )
    telemetry: TelemetryConfig = Field(
        default_factory=TelemetryConfig, description="Logs, traces and metrics."
    )
    secrets: SecretsConfig = Field(
        default_factory=SecretsConfig, description="Where secrets are that settings name."
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
    if problems := list(_unverified(config)):
        _refuse(problems)
    if arguments.check_config:
        sys.stdout.write(json.dumps(config.describe(), indent=2) + "\n")
        raise SystemExit(0)
    return config


def _unverified(config: ServiceConfig) -> Iterator[str]:
    """A line for each setting by which the service would trust whoever answers."""
    if config.environment == "dev":
        return
    for location, section in sections(config):
        if isinstance(section, Section) and (found := section.unverified()) is not None:
            name, way_out = found
            variable = variable_name((*location, name))
            yield f"{variable}: refused in environment {config.environment!r}: {way_out}"


def sections(
    part: object, location: tuple[int | str, ...] = ()
) -> Iterator[tuple[tuple[int | str, ...], BaseModel]]:
    """A configuration and all that is in it, each after where it is: for `variable_name`."""
    if isinstance(part, BaseModel):
        yield location, part
        for name, value in part:
            yield from sections(value, (*location, name))
    elif isinstance(part, list | tuple):
        for index, each in enumerate(part):
            yield from sections(each, (*location, index))


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
            required = [leaf for leaf, field in _leaves(section, (name,)) if field.is_required()]
            yield from (f"{leaf}: {problem['msg']}" for leaf in required)
            if not required:  # One of several ways, of which its first line tells.
                way_out = str(section.__doc__).splitlines()[0]
                yield f"{variable_name(location)}: {problem['msg']}: {way_out}"
            return
    yield f"{variable_name(location)}: {problem['msg']}"


def variable_name(location: tuple[int | str, ...]) -> str:
    """The name that people know a setting by.

    ("replicas", 0, "dsn") -> ATLAS_REPLICAS[0].dsn, ("rpc", "port") -> ATLAS_RPC__PORT.
    """
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
        return f"{_unparsed_variable(variable_name((quoted[1],)))}: not valid JSON{cause}"
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
            yield variable_name((*path, name)), field


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
