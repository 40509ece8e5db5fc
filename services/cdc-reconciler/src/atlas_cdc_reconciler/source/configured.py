"""The source that the service was told to read."""

from atlas_cdc_reconciler.config import Config
from atlas_cdc_reconciler.source import Source
from atlas_cdc_reconciler.source.kafka import KafkaSource
from atlas_cdc_reconciler.source.slot import SlotSource
from atlas_common.db import Database


def configured_source(config: Config, primary: Database) -> Source:
    """The slot or the topic."""
    if config.source.kind == "kafka":
        assert config.kafka is not None  # Config sees to that.
        return KafkaSource(config.kafka, primary)
    return SlotSource(config.slot, config.direct, primary)
