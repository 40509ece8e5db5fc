"""A context variable that has a value inside a block."""

from contextvars import ContextVar, Token
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Scoped(Generic[T]):
    """Gives the variable a value for the block, which sees it as what `with` gives; once.

    A class rather than a generator: every call goes through three of these.
    """

    __slots__ = ("_reset", "_value", "_variable")

    def __init__(self, variable: "ContextVar[T] | ContextVar[T | None]", value: T) -> None:
        self._variable = variable
        self._value = value

    def __enter__(self) -> T:
        self._reset: Token[T] | Token[T | None] = self._variable.set(self._value)
        return self._value

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._variable.reset(self._reset)  # type: ignore[arg-type]  # It is this variable's.
