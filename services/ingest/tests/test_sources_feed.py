"""A partition's feed, with a topic and a database that fail: each message is stored once."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum

from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_common import errors
from atlas_ingest.sources.backlog import Backlog
from atlas_ingest.sources.backoff import Backoff
from atlas_ingest.sources.faults import FAILURES_MAX
from atlas_ingest.sources.feed import Feed, RawMessage
from atlas_ingest.sources.intake import OnItsWay
from atlas_ingest.sources.message import Incoming, Refusal

POISON = b"poison"


class Fate(Enum):
    """What happens to a message that is submitted."""

    STORED = "stored"
    REFUSED_ROOM = "no room: submit fails"
    LOST = "lost on the way"
    UNHEARD = "stored, but that is not heard"
    FLUSH_REFUSED = "the database refuses a flush that others are in as well"
    BUG = "our own fault"


class Database:
    """Stores messages as the flush does: only what follows; knows what it has."""

    def __init__(self, fates: Sequence[Fate]) -> None:
        self.next: int | None = None
        self.stored: list[int] = []
        self.dead: list[tuple[int, str]] = []
        self._fates = list(fates)

    async def next_offset(self, topic: str, partition: int) -> int | None:
        await asyncio.sleep(0)
        return self.next

    async def submit(self, message: Incoming, refusal: Refusal | None = None) -> OnItsWay:
        fate = self._fates.pop(0) if self._fates else Fate.STORED
        await asyncio.sleep(0)
        if fate is Fate.REFUSED_ROOM:
            raise errors.resource_exhausted("OVERLOADED", "full")
        if fate is Fate.BUG:
            raise ZeroDivisionError
        return asyncio.create_task(self._flush(message, refusal, fate))

    async def _flush(self, message: Incoming, refusal: Refusal | None, fate: Fate) -> bool:
        await asyncio.sleep(0)
        if fate is Fate.LOST:
            raise errors.unavailable("DEPENDENCY_UNAVAILABLE", "lost")
        if fate is Fate.FLUSH_REFUSED:
            raise errors.invalid_argument("INVALID_FIELD", "no", sqlstate="22000")
        assert message.offset is not None
        offset, stored = message.offset.offset, self.next or 0
        if offset < stored:
            return False
        if message.offset.follows > stored:
            raise errors.failed_precondition("SEQUENCE_GAP", "gap", expected=stored)
        if refusal is None and message.raw == POISON:
            raise errors.already_exists("REQUEST_ID_REUSED", "used")
        if refusal is None:
            self.stored.append(offset)
        else:
            self.dead.append((offset, refusal.reason))
        self.next = offset + 1
        if fate is Fate.UNHEARD:
            raise errors.unavailable("DEPENDENCY_UNAVAILABLE", "unknown")
        return True


class Topic:
    """Its messages, and a reader that delivers what it is asked for."""

    def __init__(self, messages: Sequence[RawMessage]) -> None:
        self.messages = list(messages)
        self.begun_at: list[int | None] = []

    async def read_from(self, feed: Feed, next_offset: int | None) -> None:
        await asyncio.sleep(0)
        self.begun_at.append(next_offset)
        feed.begin(next_offset or 0)
        feed.offer([each for each in self.messages if each.offset >= (next_offset or 0)])


async def fed(topic: Topic, database: Database, backlog: Backlog) -> Feed:
    """Run a feed until all is stored."""
    feed = Feed(
        "writes",
        0,
        intake=database,
        offsets=database,
        reader=topic,
        backlog=backlog,
        backoff=Backoff(0, 0),
    )
    running = asyncio.create_task(feed.run())
    async with asyncio.timeout(20):
        await until(lambda: running.done() or (database.next or 0) > topic.messages[-1].offset)
    await end(feed, running)
    return feed


async def until(condition: Callable[[], bool]) -> None:
    """Nothing here takes time, so turns of the loop are all there is to wait for."""
    while not condition():  # noqa: ASYNC110 - the condition is of several parts.
        await asyncio.sleep(0)


async def end(feed: Feed, running: "asyncio.Task[None]") -> None:
    feed.stop()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await feed.close(5)


def numbered(offsets: Sequence[int], poison: Sequence[int] = ()) -> list[RawMessage]:
    return [
        RawMessage(offset, POISON if offset in poison else b"good", offset) for offset in offsets
    ]


@settings(max_examples=150, deadline=None)
@given(
    offsets=st.sets(st.integers(0, 60), min_size=1, max_size=25).map(sorted),
    poison=st.sets(st.integers(0, 60), max_size=4),
    fates=st.lists(
        st.sampled_from([Fate.STORED, Fate.REFUSED_ROOM, Fate.LOST, Fate.UNHEARD]), max_size=40
    ),
)
def test_whatever_fails_each_message_is_stored_once_and_in_order(
    offsets: list[int], poison: set[int], fates: list[Fate]
) -> None:
    """Topics have gaps; poison is kept, and only that; nothing that may pass is given up."""
    topic, database = Topic(numbered(offsets, sorted(poison))), Database(fates)
    backlog = Backlog(messages_max=100, bytes_max=10_000)
    asyncio.run(fed(topic, database, backlog))
    assert database.stored == [offset for offset in offsets if offset not in poison]
    assert database.dead == [
        (offset, "REQUEST_ID_REUSED") for offset in offsets if offset in poison
    ]
    assert (backlog.messages, backlog.bytes) == (0, 0)
    assert topic.begun_at == [None]  # What was read is kept: a setback needs no second reading.


def test_a_message_that_always_fails_is_given_up_in_the_end_and_alone() -> None:
    for fate, reason in ((Fate.BUG, "INTERNAL"), (Fate.FLUSH_REFUSED, "INVALID_FIELD")):
        topic = Topic(numbered([0, 1, 2]))
        database = Failing(fate, offset=1)
        asyncio.run(fed(topic, database, Backlog(messages_max=9, bytes_max=999)))
        assert database.stored == [0, 2]
        assert database.dead == [(1, reason)]
        assert database.tries == FAILURES_MAX


class Failing(Database):
    """Never stores one message; refuses flushes that hold it as a whole."""

    def __init__(self, fate: Fate, offset: int) -> None:
        super().__init__([])
        self._fate, self._offset = fate, offset
        self.tries = 0

    async def submit(self, message: Incoming, refusal: Refusal | None = None) -> OnItsWay:
        assert message.offset is not None
        if message.offset.offset == self._offset and refusal is None:
            self.tries += 1
            self._fates = [self._fate]
        return await super().submit(message, refusal)


def test_a_database_that_went_back_is_read_to_again() -> None:
    """A failover lost the end: the feed notices by the gap, and the topic still has it."""

    async def scenario() -> tuple[Topic, Database]:
        topic, database = Topic(numbered(range(10))), Database([])
        feed = Feed(
            "writes",
            0,
            intake=database,
            offsets=database,
            reader=topic,
            backlog=Backlog(messages_max=99, bytes_max=999),
            backoff=Backoff(0, 0),
        )
        running = asyncio.create_task(feed.run())
        async with asyncio.timeout(20):
            await until(lambda: feed.next_stored == 10)
            database.next = 4
            del database.stored[4:]
            topic.messages += numbered([10])
            feed.offer(topic.messages[10:])
            await until(lambda: database.next == 11)
        await end(feed, running)
        return topic, database

    topic, database = asyncio.run(scenario())
    assert database.stored == list(range(11))
    assert topic.begun_at == [None, 4]


def test_what_was_fetched_before_the_reader_went_elsewhere_is_not_taken() -> None:
    async def scenario() -> None:
        topic, database = Topic(numbered([5, 6])), Database([])
        backlog = Backlog(messages_max=99, bytes_max=999)
        database.next = 5
        feed = Feed("writes", 0, intake=database, offsets=database, reader=topic, backlog=backlog)
        feed.offer(numbered([1, 2]))  # Nothing is known yet.
        assert backlog.messages == 0
        feed.begin(5)
        feed.offer(numbered([3, 4, 5, 6]))
        feed.offer(numbered([6]))
        assert backlog.messages == 2
        feed.lose()
        feed.offer(numbered([7]))
        held = backlog.messages
        await feed.close(0)
        assert (held, backlog.messages) == (2, 0)

    asyncio.run(scenario())


def test_a_backlog_stops_reading_and_lets_it_go_on_well_below_its_bound() -> None:
    backlog = Backlog(messages_max=4, bytes_max=1_000)
    seen = []
    for _ in range(4):
        backlog.add(b"x")
        seen.append((backlog.is_full, backlog.has_room))
    for _ in range(2):
        backlog.remove(b"x")
        seen.append((backlog.is_full, backlog.has_room))
    assert seen == [
        (False, True),
        (False, True),
        (False, False),
        (True, False),
        (False, False),
        (False, True),
    ]
    backlog.add(b"x" * 999)
    assert backlog.is_full


def test_a_backoff_doubles_within_its_bound_and_begins_anew() -> None:
    backoff = Backoff(1, 5)
    assert [backoff.next_seconds() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.reset()
    assert backoff.next_seconds() == 1
