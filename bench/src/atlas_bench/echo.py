"""`python -m atlas_bench.echo`: a bare gRPC server, the floor under every call.

Answers with fixed bytes: what a call of this size costs on this machine when nobody does any work.
Reads one JSON line from stdin, {"answers": {"/package.Service/Method": "<base64 message>", ...}},
prints its address, and serves until stdin ends.
"""

import asyncio
import base64
import json
import sys
from collections.abc import Mapping
from typing import TypeAlias

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class Echo(grpc.GenericRpcHandler):
    """Serves every method it has an answer for."""

    def __init__(self, answers: Mapping[str, bytes]) -> None:
        self._handlers = {method: _unary(message) for method, message in answers.items()}

    def service(self, call: grpc.HandlerCallDetails) -> "Handler | None":
        """Find the handler of a method."""
        return self._handlers.get(call.method)


def _unary(message: bytes) -> Handler:
    async def answer(_request: bytes, _context: object) -> bytes:
        return message

    return grpc.unary_unary_rpc_method_handler(answer)


async def serve(answers: Mapping[str, bytes]) -> None:
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
    asyncio.run(serve({method: base64.b64decode(message) for method, message in read.items()}))


if __name__ == "__main__":
    main()
