"""What systemd or an engine is elsewhere: commands by which scripts stop and start parts.

A command is of bash alone, so that whoever runs the script can run it, too.
"""

import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from atlas_devstack.component import Component
from atlas_devstack.errors import DevstackError


class _Request(socketserver.StreamRequestHandler):
    server: "_Server"

    def handle(self) -> None:
        verb, _, name = self.rfile.readline().decode().strip().partition(" ")
        try:
            part = self.server.parts[name]
            {"start": part.start, "stop": part.stop, "launch": part.launch}[verb]()
            answer = "done"
        except (DevstackError, KeyError) as error:
            answer = f"{verb} {name}: {error!r}".replace("\n", " ")
        self.wfile.write(f"{answer}\n".encode())


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, parts: Mapping[str, Component]) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.parts = parts


class ServiceManager:
    """Makes the commands."""

    def __init__(self, port: int) -> None:
        self._port = port

    def command(self, verb: str, name: str) -> str:
        """`start` (and wait until it serves), `launch` (and do not wait) or `stop` a part."""
        return (
            f"exec 9<>/dev/tcp/127.0.0.1/{self._port} && echo {verb} {name} >&9"
            ' && read -r answer <&9 && exec 9>&- && { [ "$answer" = done ] ||'
            ' { echo "$answer" >&2; false; }; }'
        )


@contextmanager
def managed(parts: Mapping[str, Component]) -> Iterator[ServiceManager]:
    """Serve the commands until the block ends."""
    with _Server(parts) as server:
        thread = threading.Thread(target=server.serve_forever, name="service-manager")
        thread.start()
        try:
            yield ServiceManager(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
