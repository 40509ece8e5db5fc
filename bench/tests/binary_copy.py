"""Reads binary COPY as its documentation has it."""

import struct


def decode_copy(body: bytes) -> list[list[bytes | None]]:
    """Return the rows of a COPY, each with its fields."""
    rows, at = [], 19
    while (count := struct.unpack_from(">h", body, at)[0]) != -1:
        at += 2
        row: list[bytes | None] = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", body, at)
            at += 4
            row.append(None if length < 0 else body[at : at + length])
            at += max(length, 0)
        rows.append(row)
    assert at + 2 == len(body)
    return rows
