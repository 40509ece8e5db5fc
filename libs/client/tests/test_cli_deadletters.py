"""atlas deadletters: exit codes, JSON and tables, against a real server in this process."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from atlas.reconciler.v1 import dead_letter_service_pb2 as pb
from atlas.reconciler.v1 import dead_letter_service_pb2_grpc
from atlas_client.cli.root import build

# ruff: noqa: N802 - methods have the names of the contracts' calls.


@dataclass
class Letters(dead_letter_service_pb2_grpc.DeadLetterServiceServicer):
    """Remembers what it is asked, answers what it was given."""

    requests: list[Any] = field(default_factory=list)
    letters: list[pb.DeadLetter] = field(default_factory=list)
    replayed: pb.ReplayDeadLettersResponse = field(default_factory=pb.ReplayDeadLettersResponse)
    books: pb.GetBooksResponse = field(default_factory=pb.GetBooksResponse)

    async def ListDeadLetters(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        behind = [one for one in self.letters if one.letter_id > request.after_letter_id]
        page = behind[: request.page_size]
        return pb.ListDeadLettersResponse(
            letters=page, total_count=len(self.letters), has_more=len(page) < len(behind)
        )

    async def ReplayDeadLetters(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return self.replayed

    async def DiscardDeadLetters(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return pb.DiscardDeadLettersResponse(discarded_count=3)

    async def ListDeadLetterActions(self, request: Any, context: Any) -> Any:
        action = pb.DeadLetterAction(
            action_id=4, kind=pb.DeadLetterAction.KIND_DISCARD, operator="ann", reason="void"
        )
        return pb.ListDeadLetterActionsResponse(actions=[action])

    async def GetBooks(self, request: Any, context: Any) -> Any:
        return self.books


def letter(letter_id: int, **fields: Any) -> pb.DeadLetter:
    message = pb.DeadLetter(
        letter_id=letter_id,
        chain_id=letter_id,
        kind=pb.CHANGE_KIND_UPDATE,
        table="entities",
        tenant="acme",
        **fields,
    )
    setattr(message, "class", pb.DEAD_LETTER_CLASS_MISSING_ROW)
    return message


@dataclass
class Cli:
    letters: Letters
    target: str

    def run(self, *arguments: str, code: int = 0) -> Any:
        options = ["deadletters", *arguments, "--reconciler", self.target]
        result = CliRunner().invoke(build(), options)
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
def cli() -> Iterator[Cli]:
    letters, bound, done = Letters(), threading.Event(), threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        server = grpc.aio.server()
        dead_letter_service_pb2_grpc.add_DeadLetterServiceServicer_to_server(letters, server)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        bound.set()
        await asyncio.to_thread(done.wait)
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert bound.wait(10)
        yield Cli(letters, f"127.0.0.1:{ports[0]}")
    finally:
        done.set()
        thread.join(10)


def test_all_pages_are_listed_and_the_filter_is_passed_on(cli: Cli) -> None:
    cli.letters.letters = [letter(number + 1) for number in range(120)]
    arguments = ("list", "--tenant", "acme", "--class", "missing-row", "--reason-like", "not")
    answer = json.loads(cli.run(*arguments, "--limit", "200", "--json").stdout)
    assert [one["letter_id"] for one in answer] == list(range(1, 121))
    assert answer[0]["letter_class"] == "missing-row"
    asked = cli.letters.requests[0]
    assert (asked.filter.tenant, asked.filter.reason) == ("acme", "not")
    assert getattr(asked.filter, "class") == pb.DEAD_LETTER_CLASS_MISSING_ROW
    assert not asked.with_raw


def test_raw_bytes_are_shown_only_if_asked_for(cli: Cli) -> None:
    cli.letters.letters = [letter(7, raw=b"\x01\xff", codec="pgoutput")]
    assert "01ff" not in cli.run("list").stdout
    assert "7 pgoutput 01ff" in cli.run("list", "7", "--raw").stdout
    assert [request.with_raw for request in cli.letters.requests] == [False, True]
    assert list(cli.letters.requests[1].filter.letter_ids) == [7]


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (2, 1)])
def test_a_replay_exits_with_1_if_something_stays(cli: Cli, failed: int, code: int) -> None:
    cli.letters.replayed = pb.ReplayDeadLettersResponse(
        letter_count=5,
        applied_count=5 - failed,
        failed_count=failed,
        failures=[letter(9, reason="still too long")][:failed],
    )
    result = cli.run("replay", "--table", "entities", "--adopt-schema", code=code)
    assert f"applied {5 - failed} of 5 letters" in result.stderr
    assert ("still too long" in result.stdout) == bool(failed)
    asked = cli.letters.requests[0]
    assert asked.adopt_schema
    assert asked.request_id
    assert not asked.dry_run


def test_a_dry_run_says_what_would_be(cli: Cli) -> None:
    cli.letters.replayed = pb.ReplayDeadLettersResponse(letter_count=2, applied_count=2)
    assert "would apply 2 of 2" in cli.run("replay", "--dry-run").stderr
    assert "would discard 3" in cli.run("discard", "1", "--reason", "x", "--dry-run").stderr
    assert all(request.dry_run for request in cli.letters.requests)


def test_discarding_needs_a_reason(cli: Cli) -> None:
    cli.run("discard", "1", code=2)
    assert cli.letters.requests == []
    answer = json.loads(cli.run("discard", "1", "--reason", "void", "--json").stdout)
    assert answer["discarded_count"] == 3
    assert cli.letters.requests[0].reason == "void"
    assert "ann" in cli.run("actions").stdout


def test_books_that_do_not_balance_exit_with_1(cli: Cli) -> None:
    books = pb.Books(table="entities", tenant="acme", read_count=3, applied_count=3)
    cli.letters.books = pb.GetBooksResponse(books=[books])
    assert json.loads(cli.run("books", "--json").stdout)["balance"] is True
    cli.letters.books.discrepancies.append("history, tenant 1: 3 rows booked, 2 there")
    assert "3 rows booked" in cli.run("books", code=1).stderr
    cli.letters.books = pb.GetBooksResponse(books=[pb.Books(table="entities", read_count=3)])
    cli.run("books", code=1)
