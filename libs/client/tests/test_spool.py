import io
import os
import threading
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_client.producer import SpoolInUseError, segment
from atlas_client.producer.batch import Batch
from atlas_client.producer.segment import DamagedRecordError, Owner
from atlas_client.producer.spool import Spool

OWNER = Owner("acme", "gw", "gw:1")
NEXT = Owner("acme", "gw", "gw:2")
MIB = 2**20

records = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=80)),
    max_size=8,
)


def batch(sequence: int, size: int = 100) -> Batch:
    return Batch(sequence, 1, bytes([sequence % 256]) * size)


def written(found: list[tuple[int, int, bytes]]) -> bytes:
    body = b"".join(segment.encode_record(*each) for each in found)
    return segment.encode_header(OWNER) + body


def read(data: bytes) -> list[tuple[int, int, bytes]]:
    file = io.BytesIO(data)
    assert segment.read_header(file) == OWNER
    return [
        segment.decode_record(data[each.offset : each.offset + each.size])
        for each in segment.scan(file)
    ]


@given(records)
def test_a_segment_is_read_as_it_was_written(found: list[tuple[int, int, bytes]]) -> None:
    assert read(written(found)) == found


@given(records, st.data())
def test_a_segment_that_is_cut_off_has_all_whole_records(
    found: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    whole = written(found)
    header = len(segment.encode_header(OWNER))
    cut = data.draw(st.integers(header, len(whole)))
    kept = read(whole[:cut])
    assert kept == found[: len(kept)]
    assert len(written(found[: len(kept) + 1])) > cut or len(kept) == len(found)


@given(records, st.data())
def test_a_changed_byte_is_never_read_as_a_record(
    found: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    whole = bytearray(written(found))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    try:
        kept = read(bytes(whole))
    except (DamagedRecordError, AssertionError):
        return  # The header; CRC-32 finds every error of one byte.
    assert kept == found[: len(kept)]
    assert len(kept) < len(found)


def test_what_is_spooled_is_there_for_the_next(tmp_path: Path) -> None:
    spool = Spool(tmp_path, OWNER, bytes_max=MIB)
    assert spool.leftovers == []
    batches = [batch(number) for number in (3, 1, 2)]
    assert spool.append(batches, sync=True) == 3
    spool.close()
    again = Spool(tmp_path, NEXT, bytes_max=MIB)
    (left,) = again.leftovers
    assert left.life == "gw:1"
    assert [each.sequence for each in left.batches] == [1, 2, 3]
    assert [again.read(each.record) for each in left.batches if each.record] == [
        bytes([number]) * 100 for number in (1, 2, 3)
    ]
    again.append([batch(1)], sync=False)
    again.close()
    third = Spool(tmp_path, OWNER, bytes_max=MIB)
    assert [each.life for each in third.leftovers] == ["gw:1", "gw:2"]
    third.close()


def test_a_torn_end_costs_the_torn_batch_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, OWNER, bytes_max=MIB)
    spool.append([batch(1), batch(2)], sync=False)
    spool.close()
    (path,) = tmp_path.glob("*.segment")
    os.truncate(path, path.stat().st_size - 1)
    again = Spool(tmp_path, NEXT, bytes_max=MIB)
    assert [each.sequence for each in again.leftovers[0].batches] == [1]
    again.close()


def test_a_damaged_record_is_not_sent(tmp_path: Path) -> None:
    spool = Spool(tmp_path, OWNER, bytes_max=MIB)
    one = batch(1)
    spool.append([one], sync=False)
    (path,) = tmp_path.glob("*.segment")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert one.record is not None
    with pytest.raises(DamagedRecordError):
        spool.read(one.record)
    spool.close()


def test_its_bytes_are_bounded_and_come_back_by_segments(tmp_path: Path) -> None:
    spool = Spool(tmp_path, OWNER, bytes_max=MIB)
    batches = [batch(number, 10_000) for number in range(1, 200)]
    count = spool.append(batches, sync=False)
    assert 80 < count < 110
    assert spool.bytes_used == sum(path.stat().st_size for path in tmp_path.glob("*.segment"))
    assert spool.bytes_used <= MIB
    assert [each.record is None for each in batches] == [n >= count for n in range(199)]
    assert spool.append(batches[count:], sync=False) == 0
    half = [each.record for each in batches[: count // 2] if each.record]
    spool.release(half)
    assert spool.append(batches[count:], sync=False) > 20
    spool.release([each.record for each in batches[count // 2 :] if each.record])
    assert (spool.bytes_used, spool.batches) == (0, 0)
    assert not list(tmp_path.glob("*.segment"))
    spool.close()


def test_a_full_disk_counts_as_a_full_spool(tmp_path: Path) -> None:
    # /dev/full is the system's own full disk: every write to it fails with ENOSPC.
    spool = Spool(tmp_path, OWNER, bytes_max=MIB)
    spool.append([batch(1)], sync=False)
    (path,) = tmp_path.glob("*.segment")
    size = path.stat().st_size
    assert spool._current is not None
    number, file = spool._current
    with Path("/dev/full").open("r+b", buffering=0) as full:
        spool._current = number, cast("io.FileIO", _Truncated(full, file))
        assert spool.append([batch(2)], sync=False) == 0
    spool._current = number, file
    assert path.stat().st_size == size
    assert spool.append([batch(2)], sync=False) == 1
    spool.close()
    again = Spool(tmp_path, NEXT, bytes_max=MIB)
    assert [each.sequence for each in again.leftovers[0].batches] == [1, 2]
    again.close()


class _Truncated:
    """Writes to one file, and is cut as another: /dev/full has no size."""

    def __init__(self, full: io.FileIO, file: io.FileIO) -> None:
        self.write = full.write
        self.truncate = file.truncate
        self.seek = file.seek


def test_a_foreign_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "0000000000000001.segment").write_bytes(b"?" * 5000)
    (tmp_path / "0000000000000002.segment").write_bytes(segment.MAGIC[:3])
    spool = Spool(tmp_path, OWNER, bytes_max=MIB)
    assert spool.leftovers == []
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "0000000000000001.damaged"}
    spool.append([batch(1)], sync=False)
    spool.close()


def test_only_one_has_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path, OWNER, bytes_max=MIB)
    with pytest.raises(SpoolInUseError):
        Spool(tmp_path, OWNER, bytes_max=MIB)
    spool.close()
    Spool(tmp_path, OWNER, bytes_max=MIB).close()


def test_a_bound_too_small_to_be_of_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="spool_bytes_max"):
        Spool(tmp_path, OWNER, bytes_max=1000)


def test_threads_may_append_and_release_at_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path, OWNER, bytes_max=4 * MIB)
    done: list[Batch] = []

    def append() -> None:
        for number in range(1, 400):
            one = batch(number, 1000)
            spool.append([one], sync=False)
            done.append(one)

    writer = threading.Thread(target=append)
    writer.start()
    released = 0
    while released < 399:
        ready = done[released:]
        released += len(ready)
        spool.release([each.record for each in ready if each.record])
    writer.join()
    assert spool.batches == 0
    spool.close()
    assert not list(tmp_path.glob("*.segment"))
