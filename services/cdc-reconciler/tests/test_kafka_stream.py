"""A topic's batches stay within their bounds, wherever what was read happens to end."""

from typing import Any

from atlas_cdc_reconciler.config import KafkaConfig
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.source.kafka import KafkaStream

# mypy cannot name what lies below a folder with a hyphen.
from .debezium_events import boundary, change, encoded  # type: ignore[import-not-found]

TRANSACTIONS = 40
CHANGES_EACH = 10
READ_AT_A_TIME = 17  # Never the end of a transaction but at the very end.


def transactions() -> list[bytes]:
    """Back to back: two tenants' rows in each."""
    messages = []
    for number in range(TRANSACTIONS):
        transaction, lsn = str(800 + number), 2_000 + 100 * number
        messages.append(boundary("BEGIN", transaction, lsn))
        for order in range(1, CHANGES_EACH + 1):
            row = {"tenant_id": 1 + order % 2, "entity_id": order}
            previous = None if number == 0 else lsn - 100
            event = change(
                "entities",
                "c",
                after=row,
                lsn=lsn - 50,
                previous_commit=previous,
                transaction=transaction,
                order=order,
            )
            messages.append(encoded(event))
        messages.append(boundary("END", transaction, lsn, CHANGES_EACH))
    return messages


class Topic:
    """Gives messages in pieces of one size."""

    def __init__(self, messages: list[bytes]) -> None:
        self.messages = list(enumerate(messages))

    async def read(self, timeout_seconds: float) -> list[tuple[int, bytes]]:
        piece, self.messages = self.messages[:READ_AT_A_TIME], self.messages[READ_AT_A_TIME:]
        return piece


async def test_a_full_batch_ends_with_a_transaction_in_the_middle_of_what_was_read() -> None:
    config = KafkaConfig(
        bootstrap_servers="localhost:1", topic="t", batch_changes_max=25, linger_ms=60_000
    )
    topic: Any = Topic(transactions())
    stream = KafkaStream(topic, config, LogPosition(0, Lsn(0)))
    batches = [await stream.next_batch() for _ in range(13)]
    assert [batch.change_count for batch in batches] == [30] * 13
    rows = {(run.relation.name, raw) for batch in batches for run in batch.runs for raw in run.raws}
    assert len(rows) == 390
