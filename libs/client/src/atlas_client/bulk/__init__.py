"""Points in Arrow: cut into messages, and made of tables with a column per attribute.

`AtlasClient.write_arrow` takes pyarrow tables, record batches, and what offers itself as an Arrow
stream (frames of polars and pandas). Its columns are those of WriteArrowRequest: entity_key,
attribute, event_time, quality, and bool_value, int_value, double_value, decimal_value, text_value,
time_value, json_value, of which each row has one. `melt` makes them of a wide table.
"""

from atlas_client.bulk.messages import ArrowData, ipc_streams, is_repeatable
from atlas_client.bulk.wide import Melted, melt

__all__ = ["ArrowData", "Melted", "ipc_streams", "is_repeatable", "melt"]
