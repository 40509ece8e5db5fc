"""The sources that are configured."""

from collections.abc import Mapping

from atlas_common.background import Work
from atlas_ingest.config import Config
from atlas_ingest.sources.intake import Intake
from atlas_ingest.sources.offsets import SourceOffsets


def sources(config: Config, intake: Intake, offsets: SourceOffsets) -> Mapping[str, Work]:
    """Name -> what reads it, to be run in the background."""
    works: dict[str, Work] = {}
    # Imported where they are used: whoever reads no topic and no queue pays for no client of them.
    if config.kafka is not None:
        from atlas_ingest.sources.kafka import KafkaSource  # noqa: PLC0415

        works["kafka"] = KafkaSource(config.kafka, intake, offsets).run
    if config.sqs is not None:
        from atlas_ingest.sources.sqs import SqsSource  # noqa: PLC0415

        works["sqs"] = SqsSource(config.sqs, intake).run
    return works
