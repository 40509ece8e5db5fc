"""What a read must have seen: strong(), eventual(), at_least_as_fresh(), analytics()."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from google.protobuf.duration_pb2 import Duration

from atlas.type.freshness import merge
from atlas.type.v1 import consistency_pb2
from atlas_client.values import to_timestamp


class OnUnmet(StrEnum):
    """What to do when no tier but the primary is fresh enough."""

    WAIT = "wait"
    """At most wait_timeout, then fail with FRESHNESS_UNMET."""
    PRIMARY = "primary"
    """Read the primary at once. The default, but for analytics, which waits."""
    FAIL = "fail"
    """Fail at once with FRESHNESS_UNMET."""


class Level(StrEnum):
    """The kinds of consistency."""

    STRONG = "strong"
    EVENTUAL = "eventual"
    AT_LEAST_AS_FRESH = "at_least_as_fresh"
    ANALYTICS = "analytics"


@dataclass(frozen=True, slots=True)
class Consistency:
    """What a read must have seen. Made by the functions below."""

    level: Level
    token: bytes = b""
    max_staleness: timedelta | None = None
    min_verified_through: datetime | None = None
    wait_timeout: timedelta | None = None
    on_unmet: OnUnmet | None = None

    def with_token(self, token: bytes) -> "Consistency":
        """Ask for the positions in this token, too.

        STRONG has seen them anyway, unless a failover lost them: it is refused then.
        """
        if not token:
            return self
        return replace(self, token=merge(self.token, token))

    def to_proto(self) -> consistency_pb2.Consistency:
        """Return the contract's message."""
        message = consistency_pb2.Consistency()
        match self.level:
            case Level.STRONG:
                message.strong.SetInParent()
                message.strong.token = self.token
            case Level.EVENTUAL:
                message.eventual.SetInParent()
                message.eventual.token = self.token
                if self.max_staleness is not None:
                    message.eventual.max_staleness.CopyFrom(_duration(self.max_staleness))
            case Level.AT_LEAST_AS_FRESH:
                message.at_least_as_fresh = self.token
            case Level.ANALYTICS:
                message.analytics.SetInParent()
                message.analytics.token = self.token
                if self.min_verified_through is not None:
                    through = to_timestamp(self.min_verified_through)
                    message.analytics.min_verified_through.CopyFrom(through)
        if self.wait_timeout is not None:
            message.wait_timeout.CopyFrom(_duration(self.wait_timeout))
        if self.on_unmet is not None:
            name = f"ON_UNMET_{self.on_unmet.name}"
            message.on_unmet = consistency_pb2.OnUnmet.Value(name)
        return message


def strong(*, token: bytes = b"") -> Consistency:
    """All that was committed before the call began; POSITION_LOST if `token` was lost."""
    return Consistency(Level.STRONG, token=token)


def eventual(
    max_staleness: timedelta | None = None,
    *,
    token: bytes = b"",
    wait_timeout: timedelta | None = None,
    on_unmet: OnUnmet | None = None,
) -> Consistency:
    """A copy at most this stale (the platform's default is 3 s), with the positions in `token`."""
    return Consistency(
        Level.EVENTUAL,
        token=token,
        max_staleness=max_staleness,
        wait_timeout=wait_timeout,
        on_unmet=on_unmet,
    )


def at_least_as_fresh(
    token: bytes,
    *,
    wait_timeout: timedelta | None = None,
    on_unmet: OnUnmet | None = None,
) -> Consistency:
    """Any copy that holds the positions in `token`, however stale it is otherwise."""
    return Consistency(
        Level.AT_LEAST_AS_FRESH, token=token, wait_timeout=wait_timeout, on_unmet=on_unmet
    )


def analytics(
    *,
    token: bytes = b"",
    min_verified_through: datetime | None = None,
    wait_timeout: timedelta | None = None,
    on_unmet: OnUnmet | None = None,
) -> Consistency:
    """The warehouse, with the positions in `token`, and proven equal to the source up to here."""
    return Consistency(
        Level.ANALYTICS,
        token=token,
        min_verified_through=min_verified_through,
        wait_timeout=wait_timeout,
        on_unmet=on_unmet,
    )


def _duration(delta: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(delta)
    return message
