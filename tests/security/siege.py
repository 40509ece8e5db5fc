"""A platform that believes everybody, so that hostile bytes reach every handler."""

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.ingest.v1 import ingest_service_pb2 as ingest_pb
from atlas.query.v1 import query_service_pb2 as query_pb
from atlas.type.v1 import error_pb2, value_pb2
from atlas_common.errors import STATUS_DETAILS_KEY
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions

from .fortress import METHODS, access, path

ATTACKER, VICTIM = "mallory", "canary-tenant-7f3a"
CANARIES = (VICTIM, "canary-entity-91bd", "canary-attribute-c04e", "canary-value-55e2")
"""Names and values of the victim, which nobody else may ever be told."""

WATCHES_MAX = 8
_IMPATIENT = {
    "ingest": {"ATLAS_STREAM__START_SECONDS": "3", "ATLAS_STREAM__IDLE_SECONDS": "5"},
    "query": {
        "ATLAS_RPC__STALLED_READER_SECONDS": "5",
        "ATLAS_WATCH__WATCHERS_MAX": str(WATCHES_MAX),
    },
}
"""Waits that nobody has to sit through; what they are by default does not matter here."""

_ENTITY, _ATTRIBUTE, _VALUE = CANARIES[1:]
_REASONS = {name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()}  # noqa: SIM118 - no dict.
_DOCUMENTED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
_BY_GRPC = {  # Said by gRPC itself, which knows no reasons of ours.
    grpc.StatusCode.DEADLINE_EXCEEDED: re.compile(r"^Deadline Exceeded$|deadline", re.IGNORECASE),
    grpc.StatusCode.RESOURCE_EXHAUSTED: re.compile(r"message larger than max", re.IGNORECASE),
}
_LEAKS = re.compile(
    r"Traceback|File \"|\.py\b|/home/|/tmp/|/usr/|/opt/|/srv/|site-packages|psycopg|duckdb|redis\."
    r"|\bSELECT\b.*\bFROM\b|\bINSERT INTO\b|\bUPDATE\b.*\bSET\b|\bDELETE FROM\b|relation \""
    r"|LINE \d+:|CONTEXT:|SQLSTATE|constraint \"|0x[0-9a-f]{8,}|postgres(ql)?://|password",
    re.DOTALL,
)


@dataclass
class Siege:
    stack: Stack
    channels: dict[str, grpc.Channel]
    seen: dict[str, int] = field(default_factory=dict)
    """How many answers of each code there were."""

    def attack(
        self, service: str, method: MethodDescriptor, messages: Sequence[bytes], timeout: float
    ) -> grpc.StatusCode:
        """Send it as the attacker; how it ended, which is in one of the documented ways."""
        channel, metadata = self.channels[service], (("x-atlas-tenant", ATTACKER),)
        try:
            for answer in _answers(channel, method, messages, metadata, timeout):
                if not access(method).tenantless:  # Operators are told of all tenants.
                    _check_silent(answer.decode("utf-8", "replace"))
        except grpc.RpcError as error:
            failed: Any = error  # As a call, but for the type.
            check_refusal(failed, method.full_name)
            code: grpc.StatusCode = failed.code()
        else:
            code = grpc.StatusCode.OK
        self.seen[code.name] = self.seen.get(code.name, 0) + 1
        return code

    def check_well(self) -> None:
        """The victim writes and reads as ever."""
        point = value_pb2.Point(entity_key=_ENTITY, attribute=_ATTRIBUTE, text_value=_VALUE)
        written = ingest_pb.WriteResponse.FromString(
            self.as_victim(
                "ingest",
                "/atlas.ingest.v1.IngestService/Write",
                ingest_pb.WriteRequest(points=[point]),
            )
        )
        assert written.accepted_count == 1
        request = query_pb.GetEntitiesRequest(entity_keys=[_ENTITY])
        request.consistency.at_least_as_fresh = written.token
        read = self.as_victim("query", "/atlas.query.v1.QueryService/GetEntities", request)
        assert _VALUE in str(query_pb.GetEntitiesResponse.FromString(read))

    def memory(self, service: str, kind: str = "VmRSS") -> int:
        """Bytes of the service's process; VmHWM is the most there ever was."""
        pid = self.stack.services[service].pid
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {kind}")

    def as_victim(self, service: str, method: str, request: Any) -> bytes:
        """The answer to a call of the tenant who has done nothing."""
        call: Any = self.channels[service].unary_unary(method)
        metadata = (("x-atlas-tenant", VICTIM),)
        return bytes(call(request.SerializeToString(), metadata=metadata, timeout=60))

    @contextmanager
    def others_going_on(self) -> Iterator[None]:
        """The victim works all the time meanwhile; raises what it meets."""
        ended, met = threading.Event(), list[Exception]()

        def work() -> None:
            while not ended.wait(0.2):
                try:
                    self.check_well()
                except (grpc.RpcError, AssertionError) as error:
                    met.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        self.check_well()
        assert not met, f"{len(met)} calls of another tenant failed, first: {met[0]!r}"


def check_refusal(error: Any, where: str) -> None:
    """It says what the contract has, and nothing that is nobody's business."""
    code, text = error.code(), error.details() or ""
    told = f"{where}: {code.name}: {text}"
    assert code in _DOCUMENTED, told
    packed = dict(error.trailing_metadata() or ()).get(STATUS_DETAILS_KEY)
    if packed is None:
        assert code in _BY_GRPC, f"no reason: {told}"
        assert _BY_GRPC[code].search(text), f"no reason: {told}"
        return
    info, status = error_details_pb2.ErrorInfo(), status_pb2.Status.FromString(packed)
    assert any(detail.Unpack(info) for detail in status.details), f"no ErrorInfo: {told}"
    assert info.reason in _REASONS, f"{info.reason}: {told}"
    assert info.domain == "atlas", told
    for words in (text, status.message, *info.metadata.values(), str(status.details)):
        leak = _LEAKS.search(words)
        assert leak is None, f"{leak} in {told}"
        _check_silent(words)


def _check_silent(words: str) -> None:
    for canary in CANARIES:
        assert canary not in words, f"another tenant's {canary} is told: {words[:500]}"


def _answers(
    channel: Any, method: MethodDescriptor, messages: Sequence[bytes], metadata: Any, timeout: float
) -> Iterable[bytes]:
    """At most 20 of them: watching has no end."""
    options = {"metadata": metadata, "timeout": timeout}
    if method.client_streaming and method.server_streaming:
        call = channel.stream_stream(path(method))(iter(messages), **options)
    elif method.client_streaming:
        return [channel.stream_unary(path(method))(iter(messages), **options)]
    elif method.server_streaming:
        call = channel.unary_stream(path(method))(messages[0], **options)
    else:
        return [channel.unary_unary(path(method))(messages[0], **options)]
    answers = [answer for answer, _ in zip(call, range(20), strict=False)]
    call.cancel()
    return answers


@contextmanager
def siege(directory: Path, servers: ServerOptions) -> Iterator[Siege]:
    """Start it, with the attacker's tenant and the victim's."""
    single = replace(servers, postgres=replace(servers.postgres, replicas=0), replica_dsns=())
    options = StackOptions(
        servers=single,
        tenants=(ATTACKER, VICTIM),
        environment=_IMPATIENT,
        ready_seconds_max=180,
    )
    stack = Stack.start(directory / "state", options)
    limits = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    channels = {
        name: grpc.insecure_channel(service.target, limits)
        for name, service in stack.services.items()
        if name in {service for service, _ in METHODS}
    }
    try:
        held = Siege(stack, channels)
        attribute = catalog_pb.Attribute(
            name=_ATTRIBUTE, data_type=value_pb2.DATA_TYPE_TEXT, hot=True
        )
        held.as_victim(
            "ingest",
            "/atlas.catalog.v1.CatalogService/BatchUpsertAttributes",
            catalog_pb.BatchUpsertAttributesRequest(attributes=[attribute]),
        )
        yield held
    finally:
        for channel in channels.values():
            channel.close()
        stack.remove()
