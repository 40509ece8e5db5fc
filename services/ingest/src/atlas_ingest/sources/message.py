"""A message on its way in, and why one cannot be stored."""

from dataclasses import dataclass

from atlas_ingest.points import DeadLetter, Rejections, SourceOffset

_POINTS_NAMED_MAX = 5
_TEXT_CHARS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it came; `sent_us` stands in for event times that its points leave out.

    Known by its `offset`, or by `message_id` where its queue has no offsets: whatever has one of
    them was stored before or is stored once.
    """

    source: str
    raw: bytes
    sent_us: int
    offset: SourceOffset | None = None
    message_id: str = ""

    def dead_letter(self, refusal: "Refusal") -> DeadLetter:
        """What is kept of it."""
        return DeadLetter(self.source, self.raw, refusal.reason, refusal.message)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message can never be stored, or not all of it; `reason` is a name of ErrorReason."""

    reason: str
    message: str

    def __post_init__(self) -> None:
        # Postgres' text has no NUL, and an error's text may quote the message.
        clean = self.message.replace("\x00", "\\x00")[:_TEXT_CHARS_MAX]
        object.__setattr__(self, "message", clean)


class PoisonError(Exception):
    """A message that can never be stored, however often it is read; `tenant_key`: if it has one."""

    def __init__(self, reason: str, message: str, *, tenant_key: str = "") -> None:
        super().__init__(message)
        self.refusal = Refusal(reason, message)
        self.tenant_key = tenant_key


def partly_refused(rejections: Rejections, points: int) -> Refusal:
    """The refusal of a message some of whose points were refused; the others are stored."""
    named = [
        f"points[{error.index}]: {error.message}" for error in rejections.errors[:_POINTS_NAMED_MAX]
    ]
    if rejections.count > len(named):
        named.append(f"and {rejections.count - len(named)} more")
    return Refusal(
        rejections.errors[0].reason,
        f"{rejections.count} of {points} points are refused: " + "; ".join(named),
    )
