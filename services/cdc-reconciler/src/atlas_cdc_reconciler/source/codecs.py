"""All codecs by name: what a dead letter needs, besides its bytes, to be read again."""

from collections.abc import Mapping
from types import MappingProxyType

from atlas_cdc_reconciler.changes import Codec
from atlas_cdc_reconciler.source import copy, debezium, pgoutput

CODECS: Mapping[str, Codec] = MappingProxyType(
    {codec.name: codec for codec in (pgoutput.CODEC, debezium.CODEC, copy.CODEC)}
)
