"""A producer's batches on disk: append-only segment files in a directory of its own.

Waiting is the caller's business: every method works at once, and may be called from any thread.

What is on disk when append() returns has left this process and survives its death. It survives a
loss of power with `sync=True`, which waits for the disk. There is no mark of what is acknowledged:
the platform knows, and a producer that starts again asks it.
"""

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from atlas_client.producer import segment
from atlas_client.producer.batch import Batch, Record
from atlas_client.producer.errors import SpoolFullError, SpoolInUseError
from atlas_client.producer.segment import DamagedRecordError, Owner

BYTES_MAX_LEAST = 2**20
_SEGMENT_BYTES_MAX = 16 * 2**20
_SEGMENTS = 8  # Room is given back by whole segments, so there are several.
_HEADER_BYTES_MAX = 2**12
_LOCK = "lock"
_SUFFIX = ".segment"
_log = logging.getLogger(__name__)
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int
    live: int = 0  # Batches in it that are not acknowledged.


@dataclass(slots=True)
class Leftovers:
    """What an earlier life left in the spool: its batches in the order of their numbers."""

    life: str
    batches: list[Batch] = field(default_factory=list)


class Spool:
    """The directory. One process has it at a time; `tenant` and `producer` must not change.

    Raises SpoolInUseError, and OSError where the directory cannot be made, read or written.
    """

    def __init__(self, directory: Path, owner: Owner, *, bytes_max: int) -> None:
        if bytes_max < BYTES_MAX_LEAST:
            raise ValueError(f"spool_bytes_max is {bytes_max}, give {BYTES_MAX_LEAST} at least")
        self._directory = directory
        self._owner = owner
        self._bytes_max = bytes_max
        self._segment_bytes = min(_SEGMENT_BYTES_MAX, bytes_max // _SEGMENTS)
        self._lock = threading.Lock()
        self._segments: dict[int, _Segment] = {}
        self._current: tuple[int, FileIO] | None = None
        self._bytes_used = self._batches = 0
        directory.mkdir(parents=True, exist_ok=True)
        self._lock_file = _locked(directory / _LOCK)
        try:
            self.leftovers = self._read_leftovers()
        except BaseException:
            self._lock_file.close()
            raise
        self._next = max(self._segments, default=0) + 1

    @property
    def bytes_used(self) -> int:
        """The size of all segments."""
        return self._bytes_used

    @property
    def batches(self) -> int:
        """Batches that are not acknowledged."""
        return self._batches

    def append(self, batches: Sequence[Batch], *, sync: bool) -> int:
        """Write batches, as many as there is room for; sets their `record`. Returns how many.

        `sync`: they survive a loss of power, too. A disk that is full counts as no room. Raises
        OSError for what else a disk can have; nothing of that call counts as written then.
        """
        with self._lock:
            written: list[Batch] = []
            try:
                for batch in batches:
                    batch.record = self._write(batch)
                    written.append(batch)
            except SpoolFullError:
                pass
            except OSError:
                self._take_back(written)
                raise
            if sync and written:
                self._sync(written)
            return len(written)

    def read(self, record: Record) -> bytes:
        """The batch's message. Raises DamagedRecordError, OSError."""
        with self._lock:
            path = self._segments[record.segment].path
            with path.open("rb") as file:
                file.seek(record.offset)
                return segment.decode_record(file.read(record.size))[2]

    def release(self, records: Sequence[Record]) -> None:
        """Batches are acknowledged: segments without any other are deleted. Raises OSError."""
        with self._lock:
            for record in records:
                self._count(record.segment, -1)
            for number in {record.segment for record in records}:
                if self._segments[number].live == 0:
                    self._delete(number)

    def close(self) -> None:
        """Leave the directory to others; what is in it stays. A second time changes nothing."""
        with self._lock:
            self._roll()
            self._lock_file.close()

    def _write(self, batch: Batch) -> Record:
        assert batch.message is not None
        data = segment.encode_record(batch.sequence, batch.points, batch.message)
        if self._current is not None:
            number, _ = self._current
            if self._segments[number].size + len(data) > self._segment_bytes:
                self._roll()
        header = segment.encode_header(self._owner) if self._current is None else b""
        if self._bytes_used + len(header) + len(data) > self._bytes_max:
            raise SpoolFullError(f"the spool has its {self._bytes_max} bytes")
        number, file = self._current or self._begin(header)
        held = self._segments[number]
        record = Record(number, held.size, len(data))
        try:
            _write_all(file, data)
        except OSError as error:
            _cut(file, held.size)
            if error.errno in _DISK_FULL:
                raise SpoolFullError(f"the spool's disk is full: {error.strerror}") from error
            raise
        held.size += len(data)
        self._bytes_used += len(data)
        self._count(number, 1)
        return record

    def _begin(self, header: bytes) -> tuple[int, FileIO]:
        number = self._next
        path = self._directory / f"{number:016d}{_SUFFIX}"
        # Unbuffered: what write() took is the operating system's, whatever becomes of us.
        file = path.open("xb", buffering=0)
        try:
            _write_all(file, header)
        except OSError as error:
            file.close()
            path.unlink()
            if error.errno in _DISK_FULL:
                raise SpoolFullError(f"the spool's disk is full: {error.strerror}") from error
            raise
        self._next += 1
        self._segments[number] = _Segment(path, len(header))
        self._bytes_used += len(header)
        self._current = number, file
        return self._current

    def _sync(self, written: Sequence[Batch]) -> None:
        assert self._current is not None
        number, file = self._current
        try:
            os.fdatasync(file.fileno())
            for touched in {batch.record.segment for batch in written if batch.record}:
                if touched != number:
                    _sync_path(self._segments[touched].path)
            _sync_path(self._directory)  # The files' names, too.
        except OSError:
            self._take_back(written)
            raise

    def _take_back(self, written: Sequence[Batch]) -> None:
        for batch in written:
            assert batch.record is not None
            self._count(batch.record.segment, -1)
            batch.record = None

    def _count(self, number: int, batches: int) -> None:
        self._segments[number].live += batches
        self._batches += batches

    def _roll(self) -> None:
        if self._current is not None:
            number, file = self._current
            self._current = None
            file.close()
            if self._segments[number].live == 0:
                self._delete(number)

    def _delete(self, number: int) -> None:
        if self._current is not None and self._current[0] == number:
            self._current[1].close()
            self._current = None
        if number in self._segments:
            held = self._segments.pop(number)
            self._bytes_used -= held.size
            held.path.unlink(missing_ok=True)

    def _read_leftovers(self) -> list[Leftovers]:
        lives: dict[str, dict[int, Batch]] = {}
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            with path.open("rb") as file:
                try:
                    owner = segment.read_header(file)
                except DamagedRecordError as error:
                    _set_aside(path, error)
                    continue
                self._check(owner)
                self._read_segment(path, file, lives.setdefault(owner.life, {}))
        return [
            Leftovers(life, [batches[sequence] for sequence in sorted(batches)])
            for life, batches in lives.items()
            if batches
        ]

    def _read_segment(self, path: Path, file: BinaryIO, found: dict[int, Batch]) -> None:
        number = int(path.name.removesuffix(_SUFFIX))
        self._segments[number] = _Segment(path, path.stat().st_size)
        self._bytes_used += self._segments[number].size
        for each in segment.scan(file):
            if each.sequence not in found:
                record = Record(number, each.offset, each.size)
                found[each.sequence] = Batch(each.sequence, each.points, None, record)
                self._count(number, 1)
        if self._segments[number].live == 0:
            self._delete(number)

    def _check(self, owner: Owner) -> None:
        ours = self._owner
        if (owner.tenant, owner.producer) != (ours.tenant, ours.producer):
            raise SpoolInUseError(
                f"{self._directory} holds batches of producer {owner.producer!r} of tenant"
                f" {owner.tenant!r}: give {ours.producer!r} of {ours.tenant!r} another directory"
            )


def _locked(path: Path) -> BinaryIO:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise SpoolInUseError(f"another process has the spool {path.parent}") from error
    return file


def _set_aside(path: Path, error: DamagedRecordError) -> None:
    if path.stat().st_size <= _HEADER_BYTES_MAX:
        path.unlink()  # Cut off while it was begun: no batch was ever in it.
        return
    _log.error("a spool's segment cannot be read and is set aside: %s: %s", path, error)
    path.rename(path.with_suffix(".damaged"))


def _write_all(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:  # A disk that has room for a part takes that, and refuses the rest.
        view = view[file.write(view) :]


def _cut(file: FileIO, size: int) -> None:
    """Take back a record that was written in part: what comes behind one is never read."""
    file.truncate(size)
    file.seek(size)


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
