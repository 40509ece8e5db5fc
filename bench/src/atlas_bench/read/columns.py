"""Points of an estate as record batches, as the client's write_arrow() takes them."""

import numpy as np
import pyarrow as pa

from atlas_bench.read.estate import Estate, Layer
from atlas_bench.read.values import ARROW_TYPES

_TIME = pa.timestamp("us", tz="UTC")


def record_batch(estate: Estate, layer: Layer) -> "pa.RecordBatch":
    """Return a layer's points, a column for each type of value."""
    raw = estate.raw(layer)
    types = list(ARROW_TYPES)
    type_of = np.array([types.index(each.data_type) for each in estate.attributes])
    kinds = type_of[layer.attributes]
    keys, key_at = np.unique(layer.entities, return_inverse=True)
    return pa.record_batch(
        {
            "entity_key": pa.DictionaryArray.from_arrays(
                key_at.astype(np.int32), pa.array([estate.entity_keys[key] for key in keys])
            ),
            "attribute": pa.DictionaryArray.from_arrays(
                layer.attributes.astype(np.int16),
                pa.array([attribute.name for attribute in estate.attributes]),
            ),
            "event_time": pa.array(layer.event_us).cast(_TIME),
            **{
                f"{data_type}_value": estate.values.column(
                    data_type, layer.attributes, raw, kinds != number
                )
                for number, data_type in enumerate(types)
            },
        }
    )
