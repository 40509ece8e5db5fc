"""Points in Arrow IPC streams: read, checked and encoded column by column, never row by row.

`framing` measures a stream before anything is decoded, `reading` turns it into `ArrowColumns`,
`checking` says which rows may be stored, `rows` encodes them for COPY.

What a number is, is found by numpy for whole columns. What has to be asked of Python (a JSON
document, a decimal that came as text, allowed values, regular expressions) is asked once for each
distinct value, or pair of attribute and value.
"""

from atlas_ingest.arrow.columns import ArrowColumns
from atlas_ingest.arrow.framing import ROWS_MAX, ArrowInvalidError, Extent, measure
from atlas_ingest.arrow.reading import Defaults, read

__all__ = ["ROWS_MAX", "ArrowColumns", "ArrowInvalidError", "Defaults", "Extent", "measure", "read"]
