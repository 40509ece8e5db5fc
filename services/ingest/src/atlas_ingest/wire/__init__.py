"""Points of large protobuf messages, read field by field for all points at once.

`splitting` finds where each point stands in the message, `cursors` and `varints` read the wire
format at many places, `fields` knows the fields of a point, `strings` makes columns of text,
`reading` puts all of it into the columns of `atlas_ingest.arrow`, which are checked and encoded
there.

See "Encoding" of protobuf's documentation for the format. What is read here is what our own
serializer has written of a message that was parsed: so texts are UTF-8, and a point's fields stand
in the order of their numbers, each at most once. Whatever else is met, such as a field of a newer
contract, ends the reading: those points are to be read one by one.
"""

from atlas_ingest.wire.reading import POINTS_MIN, read

__all__ = ["POINTS_MIN", "read"]
