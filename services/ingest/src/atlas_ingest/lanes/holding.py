"""What a process knows of a lane that it holds: its epoch, and the loads not durable yet."""

from collections import deque
from collections.abc import Iterator, Sequence

from atlas_common.errors import ServiceError
from atlas_common.token import Position
from atlas_ingest.lanes.batch import Batch
from atlas_ingest.lanes.load import HALVES, Load


class Holding:
    """A lane's epoch. The last of the loads is the open one: batches are copied into it."""

    def __init__(self, lane: int, epoch: int, sequence: int, *, timeline: str, pid: int) -> None:
        self.lane = lane
        self.epoch = epoch
        self.timeline = timeline
        self.pid = pid
        self.loads: deque[Load] = deque([Load(sequence + 1, HALVES[0])])

    @property
    def open(self) -> Load:
        """The load that is being filled."""
        return self.loads[-1]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is unflushed, unanswered or not durable."""
        return len(self.loads) == 1 and not self.open.batches

    @property
    def unflushed(self) -> Iterator[Batch]:
        """Batches in loads that are not flushed."""
        return (batch for load in self.loads if load.flushed is None for batch in load.batches)

    @property
    def unflushed_points(self) -> int:
        """Their points."""
        return sum(load.points for load in self.loads if load.flushed is None)

    @property
    def unproven(self) -> Sequence[Load]:
        """Loads that are flushed, and not known to be on the server's disk."""
        return [load for load in self.loads if load.flushed is not None and not load.is_durable]

    def position(self, load: Load) -> Position:
        """Where the load is, or will be."""
        return Position(self.lane, self.epoch, load.sequence)

    def close(self) -> Load:
        """The open load, which takes no more; the other half is open from now on."""
        load = self.open
        other = HALVES[1 - HALVES.index(load.half)]
        self.loads.append(Load(load.sequence + 1, other))
        return load

    def durable_through(self, last: Load) -> None:
        """The load is durable, and with it all before it: the log is written in one order."""
        for load in self.loads:
            if load.sequence <= last.sequence:
                load.is_durable = True

    def prove(self, loads: Sequence[Load], written: int, flushed: int) -> None:
        """Take note of the log's ends in bytes, as they were after these loads had been flushed."""
        for load in loads:
            if load.proof_lsn is None:
                load.proof_lsn = written
            if load.proof_lsn <= flushed:
                self.durable_through(load)

    def forget_done(self) -> None:
        """Let go of the loads that need nothing more."""
        while len(self.loads) > 1 and self.loads[0].is_durable and self.loads[0].is_answered:
            self.loads.popleft().release()

    def set_aside(self, load: Load, error: ServiceError) -> None:
        """The load will never be flushed."""
        self.loads.remove(load)
        for batch in load.batches:
            batch.fail(error)
