"""What a source holds in memory of messages that are not stored yet, and the bound on it."""


class Backlog:
    """Messages and bytes read and not stored. Beyond a bound nothing more is to be read.

    One batch of the reader may go beyond: the bound stops the next one.
    """

    def __init__(self, *, messages_max: int, bytes_max: int) -> None:
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self.messages = 0
        self.bytes = 0

    def add(self, raw: bytes) -> None:
        """One more message is held."""
        self.messages += 1
        self.bytes += len(raw)

    def remove(self, raw: bytes) -> None:
        """A message is stored, or not held any more."""
        self.messages -= 1
        self.bytes -= len(raw)

    @property
    def is_full(self) -> bool:
        """Whether reading has to stop."""
        return self.messages >= self._messages_max or self.bytes >= self._bytes_max

    @property
    def has_room(self) -> bool:
        """Whether reading may go on: well below the bound, so that it does not stop at once."""
        return self.messages * 2 <= self._messages_max and self.bytes * 2 <= self._bytes_max
