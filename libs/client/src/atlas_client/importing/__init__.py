"""Files into the platform: CSV and Parquet, with bounded memory, repeatably."""

from atlas_client.importing.cells import TimeUnit
from atlas_client.importing.errors import MappingError, UnreadableFileError
from atlas_client.importing.importer import Importer, ImportReport
from atlas_client.importing.mapping import Shape, find_shape, parse_map
from atlas_client.importing.points import Rejected
from atlas_client.importing.source import Progress, open_table

__all__ = [
    "ImportReport",
    "Importer",
    "MappingError",
    "Progress",
    "Rejected",
    "Shape",
    "TimeUnit",
    "UnreadableFileError",
    "find_shape",
    "open_table",
    "parse_map",
]
