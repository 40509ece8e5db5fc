"""What the message sources measure."""

from atlas_common.telemetry import metrics
from atlas_ingest.sources.backlog import Backlog

messages = metrics.counter(
    "atlas.ingest.source_messages", "{messages}", "Messages stored or known already, by source."
)
dead_letters = metrics.counter(
    "atlas.ingest.dead_letters", "{messages}", "Messages refused, whole or in part, by reason."
)
setbacks = metrics.counter(
    "atlas.ingest.source_setbacks", "1", "Times a source had to go back to what is stored."
)
expired = metrics.counter(
    "atlas.ingest.source_expired", "{messages}", "Offsets a topic dropped before they were stored."
)


def observe_backlog(source: str, backlog: Backlog) -> None:
    """Show what a source holds whenever metrics are collected."""
    metrics.gauge(
        f"atlas.ingest.{source}_backlog", "{messages}", "Messages read and not stored yet.",
        lambda: backlog.messages,
    )  # fmt: skip
