"""A stand-in for a Redshift cluster: a real Postgres behind a door that speaks a little Redshift.

redshift-connector talks to the door over the wire, as it would to a cluster. The door takes out of
its start-up message what Postgres does not know, and translates the text of statements where
Postgres lacks something:

- COPY of Parquet from S3 by a manifest: the objects are read, and become an INSERT of constants;
- DISTSTYLE, DISTKEY and SORTKEY are left out;
- DATEADD and DATEDIFF of microseconds, and STRTOL, become functions of the same name;
- VARCHAR(n) counts octets.

Everything else runs as it was written: transactions, locks, MERGE, UPDATE .. FROM, DELETE .. USING.
What a cluster does differently (its isolation, its planner, its limits) is not shown by it.
"""

import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pyarrow.parquet as pq
from psycopg.conninfo import conninfo_to_dict

_VARCHARS = (16, 32, 128, 512, 4_096, 65_535)
_SETUP = f"""
DROP SCHEMA IF EXISTS redshift CASCADE;
CREATE SCHEMA redshift;
{
    "".join(
        f"CREATE DOMAIN redshift.varchar_{n} AS text CHECK (octet_length(value) <= {n});"
        for n in _VARCHARS
    )
}
CREATE FUNCTION redshift.dateadd(part text, number bigint, start timestamp) RETURNS timestamp
    RETURN start + number / 86400000000 * interval '1 day'
        + number % 86400000000 * interval '1 microsecond';
CREATE FUNCTION redshift.datediff(part text, start timestamp, stop timestamp) RETURNS bigint
    RETURN ((extract(epoch FROM stop) - extract(epoch FROM start)) * 1000000)::bigint;
CREATE FUNCTION redshift.datediff(part text, start timestamptz, stop timestamptz) RETURNS bigint
    RETURN ((extract(epoch FROM stop) - extract(epoch FROM start)) * 1000000)::bigint;
CREATE FUNCTION redshift.strtol(digits text, base int) RETURNS bigint LANGUAGE plpgsql AS
    $$ BEGIN RETURN ('0x' || digits)::bigint; END $$;
CREATE FUNCTION redshift.fail(state text, message text) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION USING errcode = state, message = message; END $$;
"""
_COPY = re.compile(
    r"""COPY "(\w+)" FROM '(s3://[^']+)' IAM_ROLE '[^']+' FORMAT AS PARQUET MANIFEST"""
    " STATUPDATE OFF"
)
_DATES = re.compile(r"\b(DATEADD|DATEDIFF)\(microsecond,", re.IGNORECASE)
_STAGE = re.compile(r'CREATE TEMPORARY TABLE "(\w+)" \((.*?)\)(?: DISTKEY\("\w+"\))?$')
_LAYOUT = re.compile(r"\) (DISTSTYLE|DISTKEY|COMPOUND|SORTKEY).*$")
_SASL = struct.pack(">i", 10)
_STARTUP_KEPT = ("user", "database", "application_name")


class Shim:
    """The door to one database of a server."""

    def __init__(self, admin_dsn: str, s3: Any) -> None:
        """`s3` is a boto3 client of the bucket's store."""
        self._server = conninfo_to_dict(admin_dsn)
        self._s3 = s3
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._stages: dict[str, list[str]] = {}
        self.port: int = self._listener.getsockname()[1]
        self.statements: list[str] = []
        """Every statement as it came."""
        self.before: Callable[[str], str | None] = lambda _: None
        """Called with each statement; may answer another, or break the connection by raising."""
        self.lost_answer: bytes | None = None
        """The answer that contains this gets lost, and the connection with it; once."""

    def serve(self) -> None:
        """Until the listener is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = self._connect()
            for end in (client, server):
                if end.family == socket.AF_INET:  # Many small messages: each at once.
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._ends.append(end)
            for work in (self._to_server, self._to_client):
                threading.Thread(target=_until_closed, args=(work, client, server)).start()

    def break_all(self) -> None:
        """Break the connections that are."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no more connections, and break those that are."""
        self.break_all()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _connect(self) -> socket.socket:
        host, port = str(self._server["host"]), int(str(self._server.get("port", 5432)))
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
            return server
        return socket.create_connection((host, port))

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        (size,) = struct.unpack(">i", _exactly(client, 4))
        server.sendall(_startup(_exactly(client, size - 4)))
        while True:
            kind = _exactly(client, 1)
            (size,) = struct.unpack(">i", _exactly(client, 4))
            body = _exactly(client, size - 4)
            if kind == b"P":
                body = self._parse(body)
            server.sendall(kind + struct.pack(">i", len(body) + 4) + body)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        kind = _exactly(server, 1)
        (size,) = struct.unpack(">i", _exactly(server, 4))
        body = _exactly(server, size - 4)
        if body.startswith(_SASL):  # The driver trips over the empty name that ends the list.
            body = body.removesuffix(b"\0")
        client.sendall(kind + struct.pack(">i", len(body) + 4) + body)
        while data := server.recv(65_536):
            if self.lost_answer is not None and self.lost_answer in data:
                self.lost_answer = None
                return
            client.sendall(data)

    def _parse(self, body: bytes) -> bytes:
        name, statement, rest = body.split(b"\0", 2)
        text = statement.decode()
        self.statements.append(text)
        text = self.before(text) or text
        return b"\0".join((name, self.translated(text).encode(), rest))

    def translated(self, statement: str) -> str:
        """The statement as Postgres understands it."""
        if copy := _COPY.fullmatch(statement):
            return self._insert(copy[1], copy[2])
        if stage := _STAGE.fullmatch(statement):
            self._stages[stage[1]] = re.findall(r'"(\w+)" [A-Z]', stage[2])
        if statement.startswith("CREATE"):
            statement = _LAYOUT.sub(")", statement)
            statement = re.sub(r"VARCHAR\((\d+)\)", r"redshift.varchar_\1", statement)
        statement = _DATES.sub(r"redshift.\1('microsecond',", statement)
        return statement.replace("strtol(", "redshift.strtol(")

    def _insert(self, stage: str, manifest_url: str) -> str:
        rows: list[str] = []
        for entry in json.loads(self._read(manifest_url))["entries"]:
            body = self._read(entry["url"])
            assert len(body) == entry["meta"]["content_length"]
            table = pq.read_table(BytesIO(body))
            # COPY goes by the order of the columns, and there must be as many.
            assert table.column_names == self._stages[stage]
            columns = [column.to_pylist() for column in table.columns]
            rows += (_constants(row) for row in zip(*columns, strict=True))
        return f'INSERT INTO "{stage}" VALUES {", ".join(rows)}'

    def _read(self, url: str) -> bytes:
        place = urlsplit(url)
        answer = self._s3.get_object(Bucket=place.netloc, Key=place.path[1:])
        body: bytes = answer["Body"].read()
        return body


@contextmanager
def open_shim(admin_dsn: str, s3: Any) -> Iterator[Shim]:
    """A door to the database, whose tables of earlier tests are dropped."""
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(_SETUP.encode())
    shim = Shim(admin_dsn, s3)
    thread = threading.Thread(target=shim.serve)
    thread.start()
    try:
        yield shim
    finally:
        shim.close()
        thread.join()


def _startup(body: bytes) -> bytes:
    words = body[4:].decode().split("\0")
    given = dict(zip(words[::2], words[1::2], strict=False))
    kept = "".join(f"{name}\0{given[name]}\0" for name in _STARTUP_KEPT if name in given)
    body = body[:4] + kept.encode() + b"\0"
    return struct.pack(">i", len(body) + 4) + body


def _until_closed(
    work: Callable[[socket.socket, socket.socket], None],
    client: socket.socket,
    server: socket.socket,
) -> None:
    """One direction; its end is the end of both. Whatever a hook raises breaks the connection."""
    with suppress(OSError, EOFError, BrokenConnectionError):
        work(client, server)
    for end in (client, server):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


class BrokenConnectionError(Exception):
    """What a hook raises to break the connection."""


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def _constants(row: Sequence[Any]) -> str:
    return f"({', '.join(map(_constant, row))})"


def _constant(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).upper()
        case Decimal():
            return f"'{value:f}'"
        case _:
            return "'" + str(value).replace("'", "''") + "'"
