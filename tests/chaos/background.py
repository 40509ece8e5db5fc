"""Something that goes on while a block runs."""

import threading
from abc import ABC, abstractmethod
from typing import Any


class Background(ABC):
    """A thread for as long as the block runs; it is waited for at the block's end."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    @abstractmethod
    def _run(self) -> None:
        """What goes on until `_stop` is set."""
