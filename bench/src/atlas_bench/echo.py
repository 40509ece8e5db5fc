"""`python -m atlas_bench.echo`: a bare gRPC server, the floor under every read.

Answers with fixed bytes: what a call of this size costs on this machine when nobody does any work.
Reads one JSON line from stdin, {"answers": {"<operation>": ["<base64 message>", ...]}}, prints its
address, and serves until stdin ends. Methods: /echo/<operation> (unary, the first message) and
/echo-stream/<operation> (all of them); an operation that begins with a slash is a method's name.
"""

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class Echo(grpc.GenericRpcHandler):
    """Serves every operation it has answers for."""

    def __init__(self, answers: dict[str, list[bytes]]) -> None:
        self._handlers: dict[str, Handler] = {}
        for operation, messages in answers.items():
            if operation.startswith("/"):
                self._handlers[operation] = _unary(messages[0])
                continue
            self._handlers[f"/echo/{operation}"] = _unary(messages[0])
            self._handlers[f"/echo-stream/{operation}"] = _stream(messages)

    def service(self, call: grpc.HandlerCallDetails) -> "Handler | None":
        """Find the handler of a method."""
        return self._handlers.get(call.method)


def _unary(message: bytes) -> Handler:
    async def answer(_request: bytes, _context: object) -> bytes:
        return message

    return grpc.unary_unary_rpc_method_handler(answer)


def _stream(messages: list[bytes]) -> Handler:
    async def answer(_request: bytes, _context: object) -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    return grpc.unary_stream_rpc_method_handler(answer)


async def serve(answers: dict[str, list[bytes]]) -> None:
    """Serve until stdin ends."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(answers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"127.0.0.1:{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(grace=None)


def main() -> None:
    """Read what to answer, then serve."""
    read = json.loads(sys.stdin.readline())["answers"]
    answers = {name: [base64.b64decode(each) for each in parts] for name, parts in read.items()}
    asyncio.run(serve(answers))


if __name__ == "__main__":
    main()
