"""The source that the service was told to read."""

from dataclasses import dataclass

from atlas_cdc_reconciler.config import Config
from atlas_cdc_reconciler.levelling import ComparableSource
from atlas_cdc_reconciler.source import Source
from atlas_cdc_reconciler.source.kafka import BesideTopic, KafkaSource
from atlas_cdc_reconciler.source.slot import SlotSource
from atlas_common.db import Database


@dataclass(frozen=True)
class Sources:
    """Where changes come from, and where rows can be had again."""

    changes: Source
    rows: ComparableSource


def configured_sources(config: Config, primary: Database) -> Sources:
    """The slot, or the topic and the database beside it."""
    slot = SlotSource(config.slot, config.direct, primary)
    if config.source.kind == "slot":
        return Sources(slot, slot)
    assert config.kafka is not None  # Config sees to that.
    return Sources(KafkaSource(config.kafka), BesideTopic(config.kafka, slot))
