"""How a producer fails its caller. What the platform refuses is an AtlasError."""


class ProducerError(Exception):
    """The producer cannot take or deliver points."""


class BufferFullError(ProducerError):
    """Memory is full, and so is the spool if there is one; `block=False` asked not to wait.

    The first `taken` points of the call were taken, and will be delivered.
    """

    def __init__(self, taken: int, points: int) -> None:
        super().__init__(
            f"{points} points wait to be acknowledged already: come back later, or let send() wait"
        )
        self.taken = taken


class ProducerClosedError(ProducerError):
    """The producer was closed, or its block has ended."""


class UndeliveredError(ProducerError):
    """The producer was closed with points neither acknowledged nor in a spool: they are lost."""

    def __init__(self, points: int) -> None:
        super().__init__(f"{points} points were not acknowledged in time and are lost")
        self.points = points


class SpoolFullError(ProducerError):
    """The spool has no room: its bound is reached, or its disk is full."""


class SpoolInUseError(ProducerError):
    """Another process has the spool directory, or it belongs to another producer."""
